"""Shadows: a version is asked again what another has answered, and only counted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final, Literal

from dlhpc.serving.batching import Pixels, Row
from dlhpc.serving.evidence import label
from dlhpc.serving.lanes import Lane
from dlhpc.serving.plan import Shadow
from dlhpc.spec.wire import ModelInfo

Result = Literal["agreed", "differed", "failed", "dropped"]
Observe = Callable[[str, Result], None]
"""Told of every copy: the shadow's digest, and what came of it."""
CLIENT: Final = "shadow"
"""Who the copies come from, in the queue of a lane that answers others too."""


class Copies:
    """Gives a share of what a version answers to its shadow's lane, after the answer. What is too much is left out."""

    def __init__(self, answering: ModelInfo, lane: Lane, shadow: Shadow, observe: Observe) -> None:
        self._answering = answering
        self._lane = lane
        self._shadow = shadow
        self._observe = partial(observe, lane.info.digest)
        self._due = 0.0
        self._pending = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, pixels: Pixels, row: Row) -> None:
        """Consider a copy of an image that was answered with a row."""
        self._due += self._shadow.share
        if self._due < 1.0:
            return
        self._due -= 1.0
        if self._pending >= self._shadow.max_pending:
            self._observe("dropped")
            return
        self._pending += 1
        self._lane.enter()
        task = asyncio.create_task(self._ask(pixels, label(self._answering.classes, row)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _ask(self, pixels: Pixels, expected: str) -> None:
        try:
            await self._lane.bring()
            row = await self._lane.batcher.submit(pixels, client=CLIENT)
        except Exception:  # the model's, or there is no room for it: nobody waits, and it is counted
            self._observe("failed")
        else:
            has_differed = label(self._lane.info.classes, row) != expected
            self._lane.tally.compared(has_differed=has_differed)
            self._observe("differed" if has_differed else "agreed")
        finally:
            self._pending -= 1
            self._lane.leave()
