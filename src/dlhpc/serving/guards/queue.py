"""The queue: what could not be answered in time is refused at once, judged by how long forward passes took lately."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

from dlhpc.serving.exchange import Guard, Handler, Refusal, Reply, Request

NEWEST: Final = 0.3
"""Weight of the newest forward pass in the average."""
LONGEST_RETRY_S: Final = 30


class Pace:
    """The time of a forward pass, and what follows from it for a queue.

    Passes are short while little is asked for and grow with it, so that the estimate is too low rather than too high:
    nobody is refused who could have been answered.
    """

    def __init__(self, max_batch_size: int) -> None:
        self._max_batch_size = max_batch_size
        self._pass_s = 0.0

    def passed(self, seconds: float) -> None:
        """Take note of a forward pass."""
        self._pass_s = seconds if not self._pass_s else (1 - NEWEST) * self._pass_s + NEWEST * seconds

    def expected(self, waiting: int, running_s: float | None) -> float:
        """Seconds until one more request would be answered, with so many waiting and a pass running for so long.

        0 before the first pass, and when nothing is waiting or running: so that there is always a next pass to learn
        from.
        """
        if not waiting and running_s is None:
            return 0.0
        rest = 0.0 if running_s is None else max(self._pass_s - running_s, 0.0)
        return rest + (waiting // self._max_batch_size + 1) * self._pass_s


def queue(
    expected_s: Callable[[], float], observe: Callable[[], None], now: Callable[[], float] = time.monotonic
) -> Guard:
    """The guard that refuses what is not expected to be answered before its deadline, and tells `observe`."""

    def wrap(handler: Handler) -> Handler:
        async def queued(request: Request) -> Reply:
            if request.deadline is not None:
                expected, left = expected_s(), request.deadline - now()
                if expected > left:
                    observe()
                    raise _hopeless(expected, left)
            return await handler(request)

        return queued

    return wrap


def _hopeless(expected: float, left: float) -> Refusal:
    wait = min(max(math.ceil(expected - left), 1), LONGEST_RETRY_S)
    return Refusal(
        "overloaded",
        f"an answer would take about {expected:.2g} s and {left:.2g} s are left: try again when less is going on",
        headers=((b"retry-after", b"%d" % wait),),
    )
