"""Admission counts right whatever happens, and refuses at once."""

from __future__ import annotations

import asyncio

import pytest

from dlhpc.serving.exchange import Refusal, Reply, Request
from dlhpc.serving.guards.admission import Admission
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
