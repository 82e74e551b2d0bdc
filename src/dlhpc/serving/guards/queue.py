"""The queue: what could not be answered in time is refused at once, judged by how long forward passes took lately."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

from dlhpc.serving.exchange import Guard, Handler, Refusal, Reply, Request

NEWEST: Final = 0.3
"""Weight of the newest forward pass in the average."""
HEADROOM: Final = 1.2
"""An answer that comes a moment too late has cost as much as one in time, and is worth nothing."""
LONGEST_RETRY_S: Final = 30


class Pace:
    """The time of forward passes of each size, and what follows from it for a queue.

    What is not known yet is taken for too low rather than too high, so that nobody is refused who could be answered.
    """

    def __init__(self, max_batch_size: int) -> None:
        self._max_batch_size = max_batch_size
        self._pass_s: list[float | None] = [None] * (max_batch_size.bit_length() + 1)

    def passed(self, size: int, seconds: float) -> None:
        """Take note of a forward pass."""
        before = self._pass_s[_scale(size)]
        self._pass_s[_scale(size)] = seconds if before is None else (1 - NEWEST) * before + NEWEST * seconds

    def expected(self, waiting: int, running: tuple[int, float] | None) -> float:
        """Seconds until one more request would be answered, with so many waiting and a pass (images, seconds for which
        it has been running).

        0 before the first pass, and when nothing is waiting or running: so that there is always a next pass to learn
        from.
        """
        if not waiting and running is None:
            return 0.0
        full, rest = divmod(waiting, self._max_batch_size)
        left = 0.0 if running is None else max(self.pass_s(running[0]) - running[1], 0.0)
        return left + full * self.pass_s(self._max_batch_size) + self.pass_s(rest + 1)

    def pass_s(self, size: int) -> float:
        """Seconds of a pass of this size; of the next smaller that was seen, or else the next larger."""
        scale = _scale(size)
        seen = (self._pass_s[each] for each in (*range(scale, -1, -1), *range(scale + 1, len(self._pass_s))))
        return next((seconds for seconds in seen if seconds is not None), 0.0)


def _scale(size: int) -> int:
    """Which power of two a batch is padded to."""
    return (size - 1).bit_length()


def queue(
    expected_s: Callable[[Request], float], observe: Callable[[], None], now: Callable[[], float] = time.monotonic
) -> Guard:
    """The guard that refuses what is not expected to be answered before its deadline, and tells `observe`."""

    def wrap(handler: Handler) -> Handler:
        async def queued(request: Request) -> Reply:
            if request.deadline is not None:
                expected, left = HEADROOM * expected_s(request), request.deadline - now()
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
