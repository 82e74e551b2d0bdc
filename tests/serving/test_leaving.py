"""What is done for a client ends when the client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from dlhpc.serving.leaving import cancelled_when_gone

FOREVER = 60.0


class Connection:
    """A client that sends its body in parts and may leave."""

    def __init__(self, parts: int = 1) -> None:
        self.messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.asked = 0
        for number in range(parts):
            self.messages.put_nowait({"type": "http.request", "body": b"x", "more_body": number < parts - 1})

    async def receive(self) -> dict[str, Any]:
        self.asked += 1
        return await self.messages.get()

    def leave(self) -> None:
        self.messages.put_nowait({"type": "http.disconnect"})


class Work:
    """An application that reads its body, then works until it is let go."""

    def __init__(self) -> None:
        self.has_read = asyncio.Event()
        self.is_free = asyncio.Event()
        self.was_cancelled = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            continue
        self.has_read.set()
        try:
            await self.is_free.wait()
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), FOREVER))


async def ignored(message: dict[str, Any]) -> None:
    raise AssertionError("nothing is sent here")


def begin(work: Work, connection: Connection, look_after_s: float) -> asyncio.Task[None]:
    app = cancelled_when_gone(work, look_after_s)
    return asyncio.ensure_future(app({"type": "http"}, connection.receive, ignored))  # type: ignore[arg-type]


def test_work_for_a_client_that_left_is_cancelled_and_the_server_is_not_troubled() -> None:
    async def scenario() -> None:
        work, connection = Work(), Connection(parts=3)
        task = begin(work, connection, 0.0)
        await work.has_read.wait()
        connection.leave()
        await task
        assert work.was_cancelled
        assert not task.cancelled()

    run(scenario)


def test_a_client_that_stays_is_answered() -> None:
    async def scenario() -> None:
        work, connection = Work(), Connection()
        task = begin(work, connection, 0.0)
        while connection.asked < 2:  # it is being watched
            await asyncio.sleep(0)
        work.is_free.set()
        await task
        assert not work.was_cancelled

    run(scenario)


def test_what_is_quick_is_not_watched() -> None:
    async def scenario() -> None:
        work, connection = Work(), Connection()
        work.is_free.set()
        await begin(work, connection, FOREVER)
        assert connection.asked == 1

    run(scenario)


def test_while_its_body_comes_nobody_else_reads_the_connection() -> None:
    async def scenario() -> None:
        work, connection = Work(), Connection(parts=0)
        task = begin(work, connection, 0.0)
        for _ in range(20):
            await asyncio.sleep(0)
        assert connection.asked == 1
        connection.messages.put_nowait({"type": "http.request", "body": b"x"})
        await work.has_read.wait()
        work.is_free.set()
        await task

    run(scenario)


def test_a_server_that_cancels_is_obeyed() -> None:
    async def scenario() -> None:
        work, connection = Work(), Connection()
        task = begin(work, connection, FOREVER)
        await work.has_read.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(scenario)


def test_other_kinds_of_calls_pass() -> None:
    async def scenario() -> None:
        work, connection = Work(), Connection()
        work.is_free.set()
        await cancelled_when_gone(work)({"type": "lifespan"}, connection.receive, ignored)
        assert work.has_read.is_set()

    run(scenario)
