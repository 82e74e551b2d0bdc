"""`fit`: the training loop. It knows no framework, no file format and no terminal.

It hands batches to a Learner, tells callbacks what happened, and decides nothing but when to log, evaluate and save.
All times are counted in steps, so a resumed run makes the same decisions as one that was never interrupted. What is
not asked for is not done: events that no callback wants are never made, and metrics stay on the device until they
are due, several dispatches later.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dlhpc.data.batch import HostBatch
from dlhpc.errors import ConfigError
from dlhpc.optimizers.plateau import Plateau, update
from dlhpc.optimizers.schedules import scale, warmup_steps
from dlhpc.ports import Controls, Learner, NamedArrays
from dlhpc.spec.run import RunSpec
from dlhpc.spec.schedule import ReduceOnPlateauSchedule
from dlhpc.training.checkpoint import Checkpoint, CheckpointStore, Moment, Score, best_beside
from dlhpc.training.divergence import all_finite, diverged
from dlhpc.training.events import (
    Callback,
    Checkpointed,
    Evaluated,
    Finished,
    Logged,
    Started,
    Stepped,
    Stop,
    listeners,
)
from dlhpc.training.window import Window


class Batches(Protocol):
    """The training batches of a run, a function of the step alone."""

    @property
    def steps_per_epoch(self) -> int:
        """Steps in one pass."""
        ...

    def stream(self, start: int, stop: int) -> Generator[HostBatch]:
        """The batches of steps [start, stop), `steps_per_dispatch` steps at a time, the last maybe fewer."""
        ...


HeldOut = Callable[[], Iterator[HostBatch]]
"""A fresh pass over the held-out part."""


@dataclass(frozen=True)
class Fitted:
    """What a run came to."""

    step: int
    seconds: float
    examples_per_second: float
    """Of training alone, after the first line of history (which compiled); 0 when no step was made."""
    weights: NamedArrays
    """The best on the held-out part; the last when there is none."""
    best: Score | None
    """How those weights did on the held-out part."""
    stop: Stop | None
    """Why the run ended early; None after the last step."""


def fit(
    learner: Learner[Any],
    run: RunSpec,
    batches: Batches,
    *,
    held_out: HeldOut | None = None,
    callbacks: Sequence[Callback] = (),
    store: CheckpointStore | None = None,
    resume: Checkpoint | None = None,
) -> Fitted:
    """Train from the first step, or from where `resume` was saved, to the last; collective over the processes.

    `store` receives the checkpoints: of several processes, rank 0's alone has one; of one, there may be none. Whatever
    a callback raises ends the run. ConfigError when the schedule wants evaluations and nothing is held out.
    """
    return _Fit(learner, run, batches, tuple(callbacks), held_out=held_out, store=store).run(resume)


class _Fit:
    """The loop's variables, and what happens between dispatches."""

    def __init__(
        self,
        learner: Learner[Any],
        run: RunSpec,
        batches: Batches,
        callbacks: tuple[Callback, ...],
        *,
        held_out: HeldOut | None,
        store: CheckpointStore | None,
    ) -> None:
        self.learner, self.spec, self.batches, self.held_out, self.store = learner, run, batches, held_out, store
        self.steps_per_epoch = batches.steps_per_epoch
        self.total_steps = self.steps_per_epoch * run.training.num_epochs
        self.started = listeners(Started, callbacks)
        self.stepped = listeners(Stepped, callbacks)
        self.logged = listeners(Logged, callbacks)
        self.evaluated = listeners(Evaluated, callbacks)
        self.checkpointed = listeners(Checkpointed, callbacks)
        self.finished = listeners(Finished, callbacks)
        self.state: Any = None
        self.step = 0
        self.saved_step = -1
        self.saved: Path | None = None
        self.best: Score | None = None
        self.best_weights: NamedArrays | None = None
        self.plateau = self._fresh_plateau()
        self.stop: Stop | None = None
        self.zero_time = time.perf_counter()

    def run(self, resume: Checkpoint | None) -> Fitted:
        self._begin(resume)
        self.window = Window(self.step, skips=self.spec.training.non_finite_gradients == "skip")
        try:
            self._heed(self.started.tell(self._started_event()))
            if self.step < self.total_steps:
                self._train()
        except BaseException as error:
            self.finished.tell(Finished(self.step, self._seconds(), Stop(type(error).__name__)))
            raise
        seconds = self._seconds()
        self.finished.tell(Finished(self.step, seconds, self.stop))
        weights = self.best_weights
        if weights is None:
            weights = self.learner.snapshot(self.state, "model")
        return Fitted(self.step, seconds, self.window.examples_per_second, weights, self.best, self.stop)

    def _fresh_plateau(self) -> Plateau | None:
        """The state of reduce_on_plateau before the first evaluation; None with any other schedule."""
        if not isinstance(self.spec.training.schedule, ReduceOnPlateauSchedule):
            return None
        if self.held_out is None:
            raise ConfigError(["training.schedule: reduce_on_plateau came, but nothing is held out: choose another"])
        return Plateau()

    def _started_event(self) -> Started:
        return Started(
            step=self.step,
            total_steps=self.total_steps,
            steps_per_epoch=self.steps_per_epoch,
            num_epochs=self.spec.training.num_epochs,
            rank=self.learner.rank,
            world_size=self.learner.world_size,
        )

    def _begin(self, resume: Checkpoint | None) -> None:
        if resume is None:
            self.state = self.learner.init(self.spec.seed)
            return
        self.state = self.learner.restore(resume.arrays)
        self.step = self.saved_step = resume.manifest.step
        self.saved = resume.path
        self.zero_time -= resume.manifest.seconds
        self.best = resume.manifest.best
        self.plateau = resume.manifest.plateau or self.plateau
        best = best_beside(resume)
        self.best_weights = None if best is None else best.arrays

    def _train(self) -> None:
        """The hot loop: what stands here is paid for at every dispatch."""
        learner, window, stepped = self.learner, self.window, self.stepped
        several, log_every = learner.world_size > 1, self.spec.training.log_every
        with closing(self.batches.stream(self.step, self.total_steps)) as stream:
            for batch in stream:
                before, after = self.step, self.step + len(batch.counts)
                placed = learner.place(batch)
                self.state, metrics = learner.steps(self.state, placed, self._controls(before, after))
                self.step = after
                window.add(metrics, batch.counts)
                if stepped:
                    self._heed(stepped.tell(Stepped(after, metrics)))
                if self._completes(before, epochs=1):
                    self._end_epoch(before)
                if after - window.first >= log_every:
                    self._log()
                if several:
                    self._agree_on_stop()
                if self.stop is not None:
                    self._save()
                    return

    def _controls(self, start: int, stop: int) -> Controls:
        """For the steps [start, stop)."""
        training, steps = self.spec.training, range(start, stop)
        peak = training.learning_rate if self.plateau is None else training.learning_rate * self.plateau.scale
        rates = [peak * scale(training.schedule, step, self.total_steps) for step in steps]
        dropout = np.full(stop - start, self.spec.model.dropout_rate)
        return Controls(np.array(rates), np.arange(start, stop, dtype=np.int64), dropout)

    def _completes(self, before: int, *, epochs: int) -> bool:
        """Whether the last dispatch reached a multiple of so many epochs, or the end."""
        period = epochs * self.steps_per_epoch
        return self.step // period > before // period or self.step == self.total_steps

    def _end_epoch(self, before: int) -> None:
        """Evaluate and save, as far as it is due."""
        training = self.spec.training
        if self.held_out is not None and self._completes(before, epochs=training.evaluate_every):
            self._evaluate(self.held_out)
        if self._completes(before, epochs=training.checkpoint_every):
            self._save()

    def _log(self) -> None:
        """Read the metrics of the steps since the last time (which waits for the device), and tell."""
        if self.step == self.window.first:
            return
        averages = self.window.close(self.step)
        if self.logged:
            event = Logged(
                step=self.step,
                epoch=self._epoch,
                loss=averages.loss,
                accuracy=averages.accuracy,
                learning_rate=float(self._controls(self.step - 1, self.step).learning_rate[0]),
                examples_per_second=averages.examples_per_second,
                seconds=self._seconds(),
                first_bad_step=averages.first_bad_step,
                non_finite_steps=averages.non_finite_steps,
            )
            self._heed(self.logged.tell(event))

    def _evaluate(self, held_out: HeldOut) -> None:
        """Measure the weights on the held-out part, and keep them when they are the best so far."""
        self._log()
        loss, accuracy, examples = evaluate(self.learner, self.state, held_out())
        self._reduce_on_plateau(loss, accuracy)
        is_best = math.isfinite(loss) and self._is_best(loss, accuracy, examples)
        if self.evaluated:
            event = Evaluated(self.step, self._epoch, loss, accuracy, examples, self._seconds(), is_best)
            self._heed(self.evaluated.tell(event))
        self.window.restart_clock()

    def _reduce_on_plateau(self, loss: float, accuracy: float) -> None:
        """Let the schedule heed an evaluation, if it does; one in the warm-up says nothing about the peak."""
        schedule = self.spec.training.schedule
        if not isinstance(schedule, ReduceOnPlateauSchedule) or self.plateau is None:
            return
        if self.step >= warmup_steps(schedule, self.total_steps):
            self.plateau = update(schedule, self.plateau, loss if schedule.monitor == "loss" else accuracy)

    def _is_best(self, loss: float, accuracy: float, examples: int) -> bool:
        """Whether no evaluation before was better; then keep these weights."""
        score = Score(step=self.step, epoch=self._epoch, accuracy=accuracy, loss=loss, examples=examples)
        if not score.beats(self.best):
            return False
        self.best, self.best_weights = score, self.learner.snapshot(self.state, "model")
        if self.store is not None:
            self.store.write("model", self._moment, self.best_weights)
        return True

    def _save(self) -> None:
        """Write a checkpoint, unless this step already has one, or there is nowhere to write it."""
        several = self.learner.world_size > 1
        if self.step == self.saved_step or (self.store is None and not several):
            return
        self._log()
        arrays = self.learner.snapshot(self.state, "training")
        if not all_finite(arrays):
            raise diverged(self.step, "the weights are", self.spec.training.learning_rate, self.saved)
        self.saved = None if self.store is None else self.store.write("training", self._moment, arrays)
        self.saved_step = self.step
        if several:
            self.learner.agree(0)  # nobody leaves before rank 0 has written: launchers kill the rest
        if self.checkpointed:
            self._heed(self.checkpointed.tell(Checkpointed(self.step, self.saved)))
        self.window.restart_clock()

    def _heed(self, stop: Stop | None) -> None:
        if stop is not None and (self.stop is None or (stop.interrupted and not self.stop.interrupted)):
            self.stop = stop

    def _agree_on_stop(self) -> None:
        """A stop on one process is a stop on all, at the same step."""
        own = 0 if self.stop is None else 2 if self.stop.interrupted else 1
        agreed = self.learner.agree(own)
        if agreed > own:
            self.stop = Stop("another process of the run stopped", interrupted=agreed == 2)

    @property
    def _epoch(self) -> float:
        return self.step / self.steps_per_epoch

    @property
    def _moment(self) -> Moment:
        return Moment(self.step, self._seconds(), self.best, self.plateau)

    def _seconds(self) -> float:
        return time.perf_counter() - self.zero_time


def evaluate(learner: Learner[Any], state: Any, batches: Iterator[HostBatch]) -> tuple[float, float, int]:
    """Mean loss, accuracy and number of examples over the batches."""
    sums = [learner.evaluate(state, learner.place(batch)) for batch in batches]
    loss, correct, count = (sum(float(one[name]) for one in sums) for name in ("loss_sum", "correct", "count"))
    return loss / max(count, 1.0), correct / max(count, 1.0), int(count)
