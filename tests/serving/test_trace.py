"""Traces: what is continued, what is begun anew, and what is told of them."""

from __future__ import annotations

import asyncio
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlhpc.serving.app import App
from dlhpc.serving.exchange import Reply, Request
from dlhpc.serving.trace import LONGEST_STATE, trace_of
from tests.serving.asgi import Answer, call

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GIVEN = f"00-{TRACE}-{PARENT}-01"


async def hello(request: Request) -> Reply:
    return Reply(200, b"hello")


async def break_down(request: Request) -> Reply:
    raise RuntimeError("broken")


def asked(*headers: tuple[str, str], path: str = "/") -> Answer:
    app = App({"/": {"GET": hello}, "/break": {"GET": break_down}}, lambda route, status, seconds: None)
    return asyncio.run(call(app, "GET", path, headers=headers))


def test_a_trace_goes_on_in_a_new_span() -> None:
    version, trace_id, span_id, flags = asked(("traceparent", GIVEN)).headers["traceresponse"].split("-")
    assert (version, trace_id, flags) == ("00", TRACE, "01")
    assert len(span_id) == 16
    assert span_id not in {PARENT, "0" * 16}
    assert (
        asked(("traceparent", GIVEN)).headers["traceresponse"] != asked(("traceparent", GIVEN)).headers["traceresponse"]
    )


def test_who_keeps_no_trace_is_told_of_none() -> None:
    answer = asked(("tracestate", "a=1"))
    assert "traceresponse" not in answer.headers
    assert "tracestate" not in answer.headers


@pytest.mark.parametrize(
    "given",
    [
        "",
        "x",
        GIVEN.upper(),
        GIVEN[:-1],
        GIVEN + "-more",
        GIVEN + " ",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{PARENT}-0g",
        f"00-{TRACE}-{PARENT}\n-01",
    ],
)
def test_what_is_no_trace_is_replaced_with_all_that_came_with_it(given: str) -> None:
    answer = asked(("traceparent", given), ("tracestate", "a=1"))
    version, trace_id, span_id, flags = answer.headers["traceresponse"].split("-")
    assert (version, flags) == ("00", "00")
    assert trace_id not in {TRACE, "0" * 32}
    assert (len(trace_id), len(span_id)) == (32, 16)
    assert "tracestate" not in answer.headers


def test_two_parents_are_none() -> None:
    assert TRACE not in asked(("traceparent", GIVEN), ("traceparent", GIVEN)).headers["traceresponse"]


@pytest.mark.parametrize("given", [f"01-{TRACE}-{PARENT}-01", f"cc-{TRACE}-{PARENT}-ff-what-comes-later"])
def test_later_versions_are_read_as_far_as_they_are_known(given: str) -> None:
    trace = trace_of([(b"traceparent", given.encode())])
    assert trace.trace_id == TRACE
    assert trace.headers[0][1].startswith(b"00-")
    assert trace.flags in {1, 3}


def test_the_state_of_others_comes_back() -> None:
    assert (
        asked(("traceparent", GIVEN), ("tracestate", "a=1"), ("tracestate", "b=2")).headers["tracestate"] == "a=1,b=2"
    )
    for state in ("", "a=1\nx", "a=" + "x" * LONGEST_STATE):
        assert "tracestate" not in asked(("traceparent", GIVEN), ("tracestate", state)).headers


def test_logs_name_the_trace_with_the_request(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        answer = asked(("traceparent", GIVEN), ("x-request-id", "mine"), path="/break")
    span_id = answer.headers["traceresponse"].split("-")[2]
    assert f"request mine (trace {TRACE}, span {span_id}): GET /break failed" in caplog.text


@given(st.lists(st.tuples(st.sampled_from([b"traceparent", b"tracestate"]), st.binary(max_size=60)), max_size=4))
def test_whatever_comes_there_is_a_trace(headers: list[tuple[bytes, bytes]]) -> None:
    trace = trace_of(headers)
    assert trace.trace_id.strip("0")
    assert (len(trace.trace_id), len(trace.span_id)) == (32, 16)
