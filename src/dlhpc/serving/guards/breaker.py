"""The circuit breaker of a version: when it keeps failing, or has become slow, it is left alone for a while.

Closed, it lets everything pass and counts. Open, it refuses at once. After a while it is half open: a few requests may
try, and whether they succeed decides. Libraries count failures in a row, which one success among many failures resets,
let any number try at once, and read the clock themselves.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from dlhpc.serving.exchange import ClientGone, Guard, Handler, Refusal, Reply, Request
from dlhpc.spec.breaker import BreakerSpec

State = Literal["closed", "half_open", "open"]
Outcome = Literal["good", "bad", "neither"]
Observe = Callable[[State], None]
"""Told of every change of state."""

PARTS: Final = 10
"""A window slides in so many steps."""
_FAILED: Final = frozenset({"prediction_failed", "internal_error"})
_log = logging.getLogger(__name__)


class Window:
    """How many of the last seconds' events were bad."""

    def __init__(self, span_s: float) -> None:
        self._part_s = span_s / PARTS
        self._parts: deque[list[int]] = deque()

    def add(self, now: float, *, is_bad: bool) -> None:
        """Count an event."""
        number = int(now / self._part_s)
        if not self._parts or self._parts[-1][0] != number:
            self._parts.append([number, 0, 0])
        self._parts[-1][1] += 1
        self._parts[-1][2] += is_bad

    def counts(self, now: float) -> tuple[int, int]:
        """Events, and how many of them were bad."""
        oldest = int(now / self._part_s) - PARTS
        while self._parts and self._parts[0][0] <= oldest:
            self._parts.popleft()
        return sum(part[1] for part in self._parts), sum(part[2] for part in self._parts)

    def clear(self) -> None:
        """Forget everything."""
        self._parts.clear()


@dataclass(frozen=True)
class Ticket:
    """A request that was let pass: what it comes to counts for the period in which it came."""

    period: int
    entered: float


class Breaker:
    """The state of one version's breaker. A request enters, and leaves with an outcome; passes are told as they end."""

    def __init__(self, name: str, spec: BreakerSpec, observe: Observe) -> None:
        self.state: State = "closed"
        self._name = name
        self._spec = spec
        self._observe = observe
        self._requests = Window(spec.window_s)
        self._passes = Window(spec.window_s)
        self._period = 0
        self._open_until = 0.0
        self._trying = 0
        self._succeeded = 0
        self._last_pass = -math.inf

    def enter(self, now: float) -> Ticket:
        """Let a request pass, or raise the Refusal that tells it when to come again."""
        if self.state == "open" and now >= self._open_until:
            self._become("half_open", "it may try again")
        if self.state == "open":
            raise self._refusal(min(self._open_until - now, self._spec.open_s))  # rounded, the difference can be more
        if self.state == "half_open":
            if self._trying + self._succeeded >= self._spec.probes:
                raise self._refusal(1.0)
            self._trying += 1
        return Ticket(self._period, now)

    def leave(self, ticket: Ticket, outcome: Outcome, now: float) -> None:
        """Count what a request came to."""
        if ticket.period != self._period:
            return
        if self.state == "half_open":
            self._tried(outcome, now)
        elif outcome != "neither":
            self._requests.add(now, is_bad=outcome == "bad")
            total, bad = self._requests.counts(now)
            if total >= self._spec.min_requests and bad >= self._spec.failure_ratio * total:
                self._open(now, f"{bad} of its last {total} predictions failed")

    def passed(self, seconds: float, now: float) -> None:
        """Count a forward pass that has ended, however it did."""
        self._last_pass = now
        is_slow = seconds >= self._spec.slow_pass_s
        if self.state == "half_open" and is_slow:
            self._open(now, f"a forward pass took {seconds:.3g} s")
        elif self.state == "closed":
            self._passes.add(now, is_bad=is_slow)
            total, slow = self._passes.counts(now)
            if total >= self._spec.min_passes and slow >= self._spec.slow_ratio * total:
                self._open(now, f"{slow} of its last {total} forward passes took {self._spec.slow_pass_s:g} s or more")

    def has_hung(self, ticket: Ticket) -> bool:
        """Whether no forward pass has ended since this request came: then its model, not a queue, kept it waiting."""
        return self._last_pass < ticket.entered

    def _tried(self, outcome: Outcome, now: float) -> None:
        self._trying -= 1
        if outcome == "bad":
            self._open(now, "it failed again")
        elif outcome == "good":
            self._succeeded += 1
            if self._succeeded >= self._spec.probes:
                self._become("closed", f"{self._succeeded} predictions succeeded")

    def _open(self, now: float, reason: str) -> None:
        self._open_until = now + self._spec.open_s
        self._become("open", f"{reason}; refused for {self._spec.open_s:g} s")

    def _become(self, state: State, reason: str) -> None:
        self.state = state
        self._period += 1
        self._trying = self._succeeded = 0
        self._requests.clear()
        self._passes.clear()
        _log.log(logging.INFO if state == "closed" else logging.WARNING, "%s: %s: %s", self._name, state, reason)
        self._observe(state)

    def _refusal(self, wait_s: float) -> Refusal:
        return Refusal(
            "breaker_open",
            f"{self._name} has been failing and is left alone for a while: try again later",
            headers=((b"retry-after", b"%d" % max(math.ceil(wait_s), 1)),),
        )


def broken(breaker: Breaker, now: Callable[[], float] = time.monotonic) -> Guard:
    """The guard that asks the breaker, and tells it what became of each request."""

    def wrap(handler: Handler) -> Handler:
        async def admitted(request: Request) -> Reply:
            ticket = breaker.enter(now())
            outcome: Outcome = "neither"
            try:
                reply = await handler(request)
                outcome = "bad" if reply.has_failures else "good"
                return reply
            except Refusal as refusal:
                outcome = "bad" if refusal.code in _FAILED else "neither"
                raise
            except (TimeoutError, asyncio.CancelledError):  # its time was over, or its client went away
                is_late = request.is_whole and request.deadline is not None and now() >= request.deadline
                outcome = "bad" if is_late and breaker.has_hung(ticket) else "neither"
                raise
            except ClientGone:
                raise
            except Exception:
                outcome = "bad"
                raise
            finally:
                breaker.leave(ticket, outcome, now())

        return admitted

    return wrap
