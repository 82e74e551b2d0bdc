"""The deadline: an answer in time, or none."""

from __future__ import annotations

import asyncio
from typing import Final

from dlhpc.serving.exchange import Guard, Handler, Refusal, Reply, Request
from dlhpc.spec.wire import DEADLINE_MS

_HEADER: Final = DEADLINE_MS.encode()


def deadline(seconds: float) -> Guard:
    """Cancel what takes longer than `seconds`, or than its client waits if that is less: 408 while the client is still
    sending, 504 after."""

    def wrap(handler: Handler) -> Handler:
        async def in_time(request: Request) -> Reply:
            allowed = allowed_seconds(request, seconds)
            request.deadline = asyncio.get_running_loop().time() + allowed
            try:
                async with asyncio.timeout_at(request.deadline):
                    return await handler(request)
            except TimeoutError:
                raise _too_late(request, allowed) from None

        return in_time

    return wrap


def allowed_seconds(request: Request, most: float) -> float:
    """Seconds that a request may take: `most`, or less when its client says so. Refusal when that makes no sense."""
    given = request.only(_HEADER)
    if given is None:
        return most
    if not given.isdigit() or len(given) > 12 or not int(given):
        came = given.decode("latin-1")
        raise Refusal(
            "invalid_request", f"{DEADLINE_MS}: {came!r} came, expected a whole number of milliseconds, 1 or more"
        )
    return min(int(given) / 1000, most)


def _too_late(request: Request, seconds: float) -> Refusal:
    if request.is_whole:
        return Refusal(
            "deadline_exceeded", f"there was no answer within {seconds:g} s: try again when less is going on"
        )
    return Refusal("request_timeout", f"the body was not there within {seconds:g} s: send it faster", close=True)
