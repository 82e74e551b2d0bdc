"""Admission counts right whatever happens, and refuses at once."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from datetime import UTC, datetime

import pytest

from dlhpc.serving.api_keys import new_key
from dlhpc.serving.exchange import ClientGone, Refusal, Reply, Request
from dlhpc.serving.guards.admission import Admission
from dlhpc.spec.api_key import Priority
from tests.serving.asgi import receiving

REQUEST = Request("POST", "/predict", [], receiving([]), "id")


def test_as_many_as_allowed_enter_and_those_who_leave_make_room() -> None:
    admission = Admission(2)
    admission.enter()
    assert not admission.is_full
    admission.enter()
    assert admission.is_full
    with pytest.raises(Refusal, match="2 predictions") as caught:
        admission.enter()
    assert caught.value.code == "overloaded"
    assert (b"retry-after", b"1") in caught.value.headers
    assert (b"connection", b"close") not in caught.value.headers
    admission.leave()
    admission.enter()
    assert admission.in_flight == 2


def test_low_priority_is_let_in_up_to_its_share_only() -> None:
    reasons: list[str] = []
    admission = Admission(4, 0.5, reasons.append)
    admission.enter(is_low=True)
    admission.enter()
    with pytest.raises(Refusal, match="this one may wait") as caught:
        admission.enter(is_low=True)
    assert caught.value.code == "overloaded"
    assert (b"retry-after", b"1") in caught.value.headers
    admission.enter()
    admission.enter()
    with pytest.raises(Refusal, match="the limit"):
        admission.enter()
    assert reasons == ["low_priority", "full"]


def test_a_small_share_lets_one_in() -> None:
    Admission(1, 0.1).enter(is_low=True)


def test_without_a_limit_only_the_end_is_refused() -> None:
    admission = Admission(None, 0.1)
    for _ in range(1000):
        admission.enter(is_low=True)
    assert not admission.is_full
    admission.close()
    with pytest.raises(Refusal, match="stopping"):
        admission.enter()


def test_all_bodies_together_have_a_limit_while_they_come() -> None:
    reasons: list[str] = []
    admission = Admission(None, observe=reasons.append, max_bytes=10)

    async def read(request: Request) -> Reply:
        await request.body(100)
        assert admission.held_bytes == 9
        with pytest.raises(Refusal, match="bodies take 9 of 10 bytes") as caught:
            await guard(Request("POST", "/predict", [], receiving([b"", b"ab"]), "id"))
        assert (b"connection", b"close") in caught.value.headers
        assert (b"retry-after", b"1") in caught.value.headers
        return Reply(200, b"")

    async def read_only(request: Request) -> Reply:
        await request.body(100)
        return Reply(200, b"")

    guard = admission.guard()(read_only)
    asyncio.run(admission.guard()(read)(Request("POST", "/predict", [], receiving([b"12345", b"6789"]), "id")))  # type: ignore[arg-type]
    assert (admission.held_bytes, admission.in_flight, reasons) == (0, 0, ["bytes"])


def test_what_a_client_sent_before_it_left_is_given_back() -> None:
    admission = Admission(None, max_bytes=10)

    async def read(request: Request) -> Reply:
        await request.body(100)
        raise AssertionError("unreachable")

    with pytest.raises(ClientGone):
        asyncio.run(admission.guard()(read)(Request("POST", "/predict", [], receiving([b"1234", None]), "id")))
    assert admission.held_bytes == 0


def test_several_images_take_as_many_places_or_are_refused() -> None:
    reasons: list[str] = []
    admission = Admission(4, 0.5, reasons.append)

    async def work(request: Request) -> Reply:
        request.weigh(3)
        assert admission.in_flight == 3
        low = of_priority(b"low", None)
        with pytest.raises(Refusal, match="3 images are being worked on, and 2 may be"):
            admission.more(low, 1)
        with pytest.raises(Refusal, match="send fewer, or try again") as caught:
            admission.more(request, 2)
        assert (b"retry-after", b"1") in caught.value.headers
        return Reply(200, b"")

    for _ in range(2):
        asyncio.run(admission.guard()(work)(Request("POST", "/predict", [], receiving([]), "id")))
        assert admission.in_flight == 0
    assert reasons == ["low_priority", "full"] * 2


def of_priority(header: bytes | None, key: Priority | None) -> Request:
    request = Request("POST", "/predict", [] if header is None else [(b"x-priority", header)], receiving([]), "id")
    if key is not None:
        _, request.key = new_key("k", ["predict"], datetime.now(UTC), priority=key)
    return request


@pytest.mark.parametrize(
    ("header", "key", "is_admitted"),
    [
        (None, None, True), (b"normal", None, True), (b"low", None, False), (None, "low", False),
        (b"normal", "low", False), (b"low", "normal", False), (None, "normal", True),
    ],
)  # fmt: skip
def test_a_key_or_a_header_lowers_the_priority_and_a_header_never_raises_it(
    header: bytes | None, key: Priority | None, is_admitted: bool
) -> None:
    admission = Admission(2, 0.5)
    admission.enter()

    async def answer(request: Request) -> Reply:
        return Reply(200, b"")

    expected = nullcontext() if is_admitted else pytest.raises(Refusal, match="may wait")
    with expected:
        asyncio.run(admission.guard()(answer)(of_priority(header, key)))


@pytest.mark.parametrize("header", [b"high", b"", b"LOW", b"\xff"])
def test_an_unknown_priority_is_told(header: bytes) -> None:
    async def answer(request: Request) -> Reply:
        return Reply(200, b"")

    with pytest.raises(Refusal, match="expected low or normal") as caught:
        asyncio.run(Admission(2).guard()(answer)(of_priority(header, None)))
    assert caught.value.code == "invalid_request"


def test_when_closed_nobody_enters_and_connections_are_closed() -> None:
    admission = Admission(2)
    admission.enter()
    admission.close()
    with pytest.raises(Refusal, match="stopping") as caught:
        admission.enter()
    assert caught.value.code == "draining"
    assert (b"retry-after", b"1") in caught.value.headers
    assert (b"connection", b"close") in caught.value.headers
    assert (admission.in_flight, admission.is_closed) == (1, True)


def test_the_guard_counts_a_request_out_however_it_ends() -> None:
    admission = Admission(1)
    seen: list[int] = []

    async def answer(request: Request) -> Reply:
        seen.append(admission.in_flight)
        return Reply(200, b"")

    async def fail(request: Request) -> Reply:
        raise ValueError("no")

    async def hang(request: Request) -> Reply:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    async def scenario() -> None:
        await admission.guard()(answer)(REQUEST)
        with pytest.raises(ValueError, match="no"):
            await admission.guard()(fail)(REQUEST)
        task = asyncio.ensure_future(admission.guard()(hang)(REQUEST))
        await asyncio.sleep(0)
        assert admission.in_flight == 1
        with pytest.raises(Refusal):
            await admission.guard()(answer)(REQUEST)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())
    assert (seen, admission.in_flight) == ([1], 0)
