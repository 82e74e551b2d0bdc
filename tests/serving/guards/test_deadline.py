"""The deadline blames whom it should."""

from __future__ import annotations

import asyncio

import pytest

from dlhpc.serving.exchange import Refusal, Reply, Request
from dlhpc.serving.guards.deadline import deadline
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
