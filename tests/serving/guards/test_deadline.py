"""The deadline blames whom it should."""

from __future__ import annotations

import asyncio

import pytest

from dlhpc.serving.exchange import Refusal, Reply, Request
from dlhpc.serving.guards.deadline import allowed_seconds, deadline
from tests.serving.asgi import receiving


async def read_then_hang(request: Request) -> Reply:
    await request.body(100)
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


def test_a_model_that_takes_too_long_is_the_servers_fault() -> None:
    with pytest.raises(Refusal, match=r"0\.01 s") as caught:
        asyncio.run(_ask([b"the whole body"]))
    assert caught.value.code == "deadline_exceeded"


def test_a_body_that_takes_too_long_is_the_clients_fault() -> None:
    with pytest.raises(Refusal, match="send it faster") as caught:
        asyncio.run(_ask([]))
    assert caught.value.code == "request_timeout"
    assert (b"connection", b"close") in caught.value.headers


def test_an_answer_in_time_passes() -> None:
    async def answer(request: Request) -> Reply:
        return Reply(200, b"in time")

    async def scenario() -> Reply:
        return await deadline(60.0)(answer)(Request("POST", "/predict", [], receiving([]), "id"))

    assert asyncio.run(scenario()).body == b"in time"


async def _ask(parts: list[bytes | None]) -> Reply:
    return await deadline(0.01)(read_then_hang)(Request("POST", "/predict", [], receiving(parts), "id"))


@pytest.mark.parametrize(("given", "seconds"), [(None, 2.0), (b"500", 0.5), (b"60000", 2.0), (b"1", 0.001)])
def test_a_client_may_ask_for_less_time_and_not_for_more(given: bytes | None, seconds: float) -> None:
    headers = [] if given is None else [(b"x-deadline-ms", given)]
    assert allowed_seconds(Request("POST", "/predict", headers, receiving([]), "id"), 2.0) == seconds


@pytest.mark.parametrize("given", [b"", b"0", b"-1", b"1.5", b"soon", b"9" * 13, b"\xb2"])
def test_a_deadline_that_makes_no_sense_is_told(given: bytes) -> None:
    with pytest.raises(Refusal, match="whole number of milliseconds") as caught:
        allowed_seconds(Request("POST", "/predict", [(b"x-deadline-ms", given)], receiving([]), "id"), 2.0)
    assert caught.value.code == "invalid_request"


def test_the_client_is_told_the_time_that_it_allowed() -> None:
    request = Request("POST", "/predict", [(b"x-deadline-ms", b"10")], receiving([b"x"]), "id")
    with pytest.raises(Refusal, match=r"0\.01 s"):
        asyncio.run(deadline(60.0)(read_then_hang)(request))
    assert request.deadline is not None


def test_a_time_out_from_further_in_is_told_as_the_deadline() -> None:
    async def drop(request: Request) -> Reply:
        await request.body(100)
        raise TimeoutError

    with pytest.raises(Refusal) as caught:
        asyncio.run(deadline(60.0)(drop)(Request("POST", "/predict", [], receiving([b"x"]), "id")))
    assert caught.value.code == "deadline_exceeded"
