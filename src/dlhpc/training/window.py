"""Averages over the steps since the last line of history, and the time they took."""

from __future__ import annotations

import math
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
IN_VAIN = 10
"""Steps one after the other, a whole window at least, that may come to nothing before the run counts as lost."""


@dataclass(frozen=True)
class Averages:
    """Of a window's steps."""

    loss: float
    accuracy: float
    examples_per_second: float
    first_bad_step: int | None
    """The first step from which the run cannot go on: its loss is not finite, and no policy dealt with it; or it
    began the steps, up to the window's last, that a policy deals with in vain."""
    non_finite_steps: int
    """Steps whose gradients were not finite, where a policy deals with them. When the loss was not finite either,
    the step is left out of loss and accuracy."""


class Window:
    """Sums up metrics as the device delivers them, and times them; evaluations and checkpoints are left out."""

    def __init__(self, step: int, clock: Callable[[], float] = time.perf_counter, *, skips: bool = False) -> None:
        """`skips`: steps whose gradients are not finite change nothing, so they are in vain whatever their loss."""
        self._clock, self._skips = clock, skips
        self._pending: deque[tuple[Any, Any, npt.NDArray[np.int32], Any]] = deque()
        self._windows = self._in_vain = 0
        self._rated = (0, 0.0)
        self._open(step)

    def _open(self, step: int) -> None:
        self.first = step
        """Number of the window's first step."""
        self._read_steps = step
        self._loss = self._correct = 0.0
        self._examples = self._left_out = self._non_finite = 0
        self._first_bad: int | None = None
        self._since = self._clock()

    def add(self, metrics: Metrics, counts: npt.NDArray[np.int32]) -> None:
        """Take one dispatch's metrics, still on the device, and the real examples of its steps."""
        self._pending.append((metrics["loss"], metrics["correct"], counts, metrics.get("non_finite")))
        if len(self._pending) > AHEAD:
            self._read()

    def _read(self) -> None:
        """Fetch the oldest dispatch's numbers; waits until the device has them."""
        device_loss, device_correct, counts, device_non_finite = self._pending.popleft()
        loss, correct = np.asarray(device_loss, dtype=np.float64), np.asarray(device_correct)
        self._examples += int(counts.sum())
        if device_non_finite is not None:
            kept = self._excuse(loss, np.asarray(device_non_finite) != 0)
            self._left_out += int(counts[~kept].sum())
            loss, correct, counts = np.where(kept, loss, 0.0), correct[kept], counts * kept
        self._loss += float(loss @ counts)
        self._correct += float(correct.sum())
        if self._first_bad is None and self._loss - self._loss != 0.0:  # NaN or infinite
            bad = np.flatnonzero(~np.isfinite(loss))
            self._first_bad = self._read_steps + int(bad[0]) if bad.size else None
        self._read_steps += len(counts)

    def _excuse(self, loss: npt.NDArray[np.float64], non_finite: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Count the steps that a policy dealt with; which of the steps belong into the averages."""
        self._non_finite += int(non_finite.sum())
        lost = non_finite & ~np.isfinite(loss)
        fruitful = np.flatnonzero(~(non_finite if self._skips else lost))
        self._in_vain = len(loss) - 1 - int(fruitful[-1]) if fruitful.size else self._in_vain + len(loss)
        return ~lost

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
        if self._first_bad is None and self._in_vain >= max(IN_VAIN, step - self.first):
            self._first_bad = step - self._in_vain
        counted = self._examples - self._left_out
        averages = Averages(
            loss=self._loss / counted if counted else math.nan,
            accuracy=self._correct / counted if counted else math.nan,
            examples_per_second=self._examples / seconds,
            first_bad_step=self._first_bad,
            non_finite_steps=self._non_finite,
        )
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
