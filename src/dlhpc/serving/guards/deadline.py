"""The deadline: an answer in time, or none."""

from __future__ import annotations

import asyncio

from dlhpc.serving.exchange import Guard, Handler, Refusal, Reply, Request


def deadline(seconds: float) -> Guard:
    """Cancel what takes longer than `seconds`: 408 while the client is still sending, 504 after."""

    def wrap(handler: Handler) -> Handler:
        async def in_time(request: Request) -> Reply:
            try:
                async with asyncio.timeout(seconds):
                    return await handler(request)
            except TimeoutError:
                raise _too_late(request, seconds) from None

        return in_time

    return wrap


def _too_late(request: Request, seconds: float) -> Refusal:
    if request.is_whole:
        return Refusal(
            "deadline_exceeded", f"there was no answer within {seconds:g} s: try again when less is going on"
        )
    return Refusal("request_timeout", f"the body was not there within {seconds:g} s: send it faster", close=True)
