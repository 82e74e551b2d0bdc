"""Callbacks: functions of events. A list of them is given to `fit`; nothing is registered anywhere."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column

from dlhpc.training.divergence import diverged
from dlhpc.training.events import (
    Callback,
    Checkpointed,
    Evaluated,
    Event,
    Finished,
    Logged,
    Started,
    Stepped,
    wants,
)

REFRESH_S = 0.1
"""Least time between two drawings of the bar."""
LINE_S = 10.0
"""Least time between two lines about training when there is no terminal to draw a bar on."""


def progress(stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> Callback:
    """Show how far the run is, on stderr by default: a bar on a terminal, plain lines elsewhere. Rank 0 alone shows."""
    console = Console(file=stream or sys.stderr)
    return _Bar(console, clock) if console.is_terminal else _Lines(stream or sys.stderr, clock)


class _Bar:
    """A line that is redrawn: epoch, bar, loss, accuracy, examples per second, time left."""

    wants = (Started, Stepped, Logged, Evaluated, Finished)

    def __init__(self, console: Console, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._drawn = -REFRESH_S
        self._progress = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=8),
            TextColumn(
                "{task.completed:.0f}/{task.total:.0f}  {task.fields[numbers]}", table_column=Column(no_wrap=True)
            ),
            TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True, min_width=5)),
            console=console,
            auto_refresh=False,
        )
        self._task = TaskID(0)
        self._started: Started | None = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, Started):
            self._begin(event)
        if self._started is None:
            return
        match event:
            case Stepped(step=step):
                if self._clock() - self._drawn >= REFRESH_S:
                    self._draw(step)
            case Logged(step=step):
                self._progress.update(self._task, numbers=_numbers(event, "ex/s"))
            case Evaluated():
                self._progress.console.print(_evaluated(event, self._started), highlight=False)
            case Finished(step=step):
                self._draw(step)
                self._progress.stop()

    def _begin(self, event: Started) -> None:
        if event.rank == 0:
            self._started = event
            epoch = _epoch(event.step, event)
            self._task = self._progress.add_task(
                "", total=event.total_steps, completed=event.step, epoch=epoch, numbers=""
            )
            self._progress.start()

    def _draw(self, step: int) -> None:
        assert self._started is not None
        self._drawn = self._clock()
        self._progress.update(self._task, completed=step, epoch=_epoch(step, self._started), refresh=True)


class _Lines:
    """Plain lines for logs: each evaluation, and in long epochs a line every ten seconds."""

    wants = (Started, Logged, Evaluated)

    def __init__(self, stream: TextIO, clock: Callable[[], float]) -> None:
        self._stream, self._clock = stream, clock
        self._started: Started | None = None
        self._begun = self._said = 0.0

    def __call__(self, event: Started | Logged | Evaluated) -> None:
        now = self._clock()
        if isinstance(event, Started) and event.rank == 0:
            self._started, self._begun, self._said = event, now, now
        if self._started is None:
            return
        match event:
            case Logged() if now - self._said >= LINE_S:
                self._say(
                    now, f"epoch {_epoch(event.step, self._started)}  {_numbers(event)}  {self._left(event.step, now)}"
                )
            case Evaluated():
                self._say(now, f"{_evaluated(event, self._started)}  {self._left(event.step, now)}")

    def _left(self, step: int, now: float) -> str:
        assert self._started is not None
        done = step - self._started.step
        seconds = (now - self._begun) / max(done, 1) * (self._started.total_steps - step)
        return f"{_duration(seconds)} left"

    def _say(self, now: float, text: str) -> None:
        self._said = now
        print(text, file=self._stream, flush=True)


def stop_on_nan(learning_rate: float, last_good: Path | None = None) -> Callback:
    """End the run with a TrainingError when a loss is NaN or infinite, before a checkpoint of such weights is written;
    with a policy for such gradients, when it has dealt with one step after the other in vain.

    `learning_rate` is the run's peak, for the message; `last_good` the checkpoint that it was resumed from.
    """
    good = last_good

    @wants(Logged, Evaluated, Checkpointed)
    def check(event: Logged | Evaluated | Checkpointed) -> None:
        nonlocal good
        match event:
            case Checkpointed():
                good = event.path
            case Logged(first_bad_step=int(step), non_finite_steps=dealt_with):
                raise diverged(step, "the gradients are" if dealt_with else "the loss is", learning_rate, good)
            case Evaluated(step=step, loss=loss) if not math.isfinite(loss):
                raise diverged(step, "the validation loss is", learning_rate, good)

    return check


def _epoch(step: int, started: Started) -> str:
    """The epoch that the last step belongs to, from 1."""
    return f"{max(1, -(-step // started.steps_per_epoch))}/{started.num_epochs}"


def _numbers(event: Logged, rate: str = "examples/s") -> str:
    odd = f"  {event.non_finite_steps} non-finite" if event.non_finite_steps else ""
    return f"loss {event.loss:.4f}  accuracy {event.accuracy:.3f}  {event.examples_per_second:,.0f} {rate}{odd}"


def _evaluated(event: Evaluated, started: Started) -> str:
    best = "  best" if event.is_best else ""
    return f"epoch {_epoch(event.step, started)}  validation loss {event.loss:.4f}  accuracy {event.accuracy:.4f}{best}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
