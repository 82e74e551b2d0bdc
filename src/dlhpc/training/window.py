"""Averages over the steps since the last line of history, and the time they took."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dlhpc.ports import Metrics

AHEAD = 16
"""Dispatches that may be under way before the host waits for the oldest: more would only fill memory with batches."""


@dataclass(frozen=True)
class Averages:
    """Of a window's steps."""

    loss: float
    accuracy: float
    examples_per_second: float
    first_bad_step: int | None
    """The first step whose loss is not finite."""


class Window:
    """Sums up metrics as the device delivers them, and times them; evaluations and checkpoints are left out."""

    def __init__(self, step: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._pending: deque[tuple[Any, Any, npt.NDArray[np.int32]]] = deque()
        self._windows = 0
        self._rated = (0, 0.0)
        self._open(step)

    def _open(self, step: int) -> None:
        self.first = step
        """Number of the window's first step."""
        self._read_steps = step
        self._loss = self._correct = 0.0
        self._examples = 0
        self._first_bad: int | None = None
        self._since = self._clock()

    def add(self, metrics: Metrics, counts: npt.NDArray[np.int32]) -> None:
        """Take one dispatch's metrics, still on the device, and the real examples of its steps."""
        self._pending.append((metrics["loss"], metrics["correct"], counts))
        if len(self._pending) > AHEAD:
            self._read()

    def _read(self) -> None:
        """Fetch the oldest dispatch's numbers; waits until the device has them."""
        device_loss, device_correct, counts = self._pending.popleft()
        loss = np.asarray(device_loss, dtype=np.float64)
        self._loss += float(loss @ counts)
        self._correct += float(np.asarray(device_correct).sum())
        self._examples += int(counts.sum())
        if self._first_bad is None and self._loss - self._loss != 0.0:  # NaN or infinite
            bad = np.flatnonzero(~np.isfinite(loss))
            self._first_bad = self._read_steps + int(bad[0]) if bad.size else None
        self._read_steps += len(counts)

    def close(self, step: int) -> Averages:
        """Wait for everything under way, give the averages, and open the next window at `step`."""
        while self._pending:
            self._read()
        seconds = max(self._clock() - self._since, 1e-9)
        # The first window compiles: it counts for the whole run's rate only when there is no other.
        if self._windows == 1:
            self._rated = (0, 0.0)
        self._rated = (self._rated[0] + self._examples, self._rated[1] + seconds)
        self._windows += 1
        examples = max(self._examples, 1)
        averages = Averages(self._loss / examples, self._correct / examples, self._examples / seconds, self._first_bad)
        self._open(step)
        return averages

    def restart_clock(self) -> None:
        """Leave out the time since the window was opened: it went into an evaluation or a checkpoint."""
        self._since = self._clock()

    @property
    def examples_per_second(self) -> float:
        """Over all closed windows but the first."""
        examples, seconds = self._rated
        return examples / seconds if seconds else 0.0
