"""A client that leaves: what was being done for it is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from dlhpc.serving.exchange import Receive

Send = Callable[[dict[str, Any]], Awaitable[None]]
Asgi = Callable[[dict[str, Any], Receive, Send], Awaitable[None]]

LOOK_AFTER_S: Final = 0.05
"""Most requests are answered by then: for them nobody watches the connection, which costs as much as a guard."""


def cancelled_when_gone(app: Asgi, look_after_s: float = LOOK_AFTER_S) -> Asgi:
    """An ASGI application whose calls are cancelled when their client closes the connection before its reply.

    Servers tell it to who asks, and nobody asks while a model computes. Before its body is whole a request is not
    watched: who reads it is told.
    """

    async def watched(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        call = _Call(receive, look_after_s)
        try:
            await app(scope, call.receive, send)
        except asyncio.CancelledError:
            if not call.has_left:
                raise
            call.task.uncancel()
        finally:
            call.end()

    return watched


class _Call:
    """One request, and what watches its client."""

    def __init__(self, receive: Receive, look_after_s: float) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.task = task
        self.has_left = False
        self._receive = receive
        self._look_after_s = look_after_s
        self._is_whole = False
        self._watcher: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(look_after_s, self._look)

    async def receive(self) -> dict[str, Any]:
        """The next message, for the application."""
        message = await self._receive()
        self._is_whole = not message.get("more_body", False)
        return message

    def end(self) -> None:
        """Watch no more."""
        self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        if self._is_whole:
            self._watcher = loop.create_task(self._watch())
        else:
            self._timer = loop.call_later(self._look_after_s, self._look)

    async def _watch(self) -> None:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.has_left = True
            self.task.cancel()
