"""The tax of the training loop: `fit` with progress, history and our rules, over a loop written by hand.

Both train an equal MLP with AdamW on the same uint8 batches. Rounds alternate; the ratio is of medians.
"""

from __future__ import annotations

import importlib
import io
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dlhpc.backends import load_backend
from dlhpc.data.batch import HostBatch
from dlhpc.spec.data import SyntheticSpec
from dlhpc.spec.model import MLPSpec
from dlhpc.spec.run import Backend, RunSpec
from dlhpc.spec.training import TrainingSpec
from dlhpc.training.callbacks import progress, stop_on_nan
from dlhpc.training.events import Callback, Event, Finished, Started, wants
from dlhpc.training.history import History
from dlhpc.training.loop import fit

LEARNING_RATE = 1e-3
BATCH_SIZE = 128
IMAGE = (28, 28, 1)
CLASSES = 10

Pair = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]


@dataclass(frozen=True)
class LoopResult:
    """One backend's comparison; times in milliseconds a step, medians over the rounds."""

    backend: Backend
    hidden_sizes: tuple[int, ...]
    steps: int
    rounds: int
    bare_ms: float
    fit_ms: float
    ratio: float
    """Median over the rounds of fit / bare within a round: neighbours in time share the machine's mood."""
    ratios: tuple[float, ...]


@dataclass(frozen=True)
class Recorded:
    """Batches made beforehand, so that only the loops are compared."""

    pairs: Sequence[Pair]

    @property
    def steps_per_epoch(self) -> int:
        return len(self.pairs)

    def stream(self, start: int, stop: int) -> Generator[HostBatch]:
        for step in range(start, stop):
            inputs, labels = self.pairs[step % len(self.pairs)]
            yield HostBatch(inputs[None], labels[None], np.asarray([len(labels)], np.int32))


def measure(backend: Backend, hidden_sizes: tuple[int, ...], *, steps: int, rounds: int) -> LoopResult:
    """Alternate `rounds` times between the bare loop and `fit`, `steps` steps each."""
    pairs = _pairs(steps)
    run = _run(backend, hidden_sizes)
    learner: Any = load_backend(backend).learner(run)
    make_bare = importlib.import_module(f"dlhpc.bench.{backend}_bare").bare_loop
    bare = make_bare([math.prod(IMAGE), *hidden_sizes, CLASSES], LEARNING_RATE)
    bare(pairs[:5])
    _fit_seconds(learner, run, pairs[:5])
    times = [(_bare_seconds(bare, pairs), _fit_seconds(learner, run, pairs)) for _ in range(rounds)]
    learner.close()
    ratios = tuple(round(ours / theirs, 4) for theirs, ours in times)
    bare_ms, fit_ms = (round(statistics.median(column) / steps * 1e3, 3) for column in zip(*times, strict=True))
    return LoopResult(backend, hidden_sizes, steps, rounds, bare_ms, fit_ms, statistics.median(ratios), ratios)


def _run(backend: Backend, hidden_sizes: tuple[int, ...]) -> RunSpec:
    return RunSpec(
        backend=backend,
        model=MLPSpec(num_classes=CLASSES, input_shape=IMAGE, hidden_sizes=hidden_sizes),
        data=SyntheticSpec(image_shape=IMAGE),
        training=TrainingSpec(num_epochs=1, batch_size=BATCH_SIZE, learning_rate=LEARNING_RATE),
    )


def _pairs(steps: int) -> list[Pair]:
    generator = np.random.default_rng(0)
    return [
        (
            generator.integers(0, 256, (BATCH_SIZE, *IMAGE), dtype=np.uint8),
            generator.integers(0, CLASSES, BATCH_SIZE).astype(np.int32),
        )
        for _ in range(steps)
    ]


def _bare_seconds(loop: Callable[[Sequence[Pair]], float], pairs: Sequence[Pair]) -> float:
    start = time.perf_counter()
    loop(pairs)
    return time.perf_counter() - start


def _fit_seconds(learner: Any, run: RunSpec, pairs: Sequence[Pair]) -> float:
    """From the first step to the end of the last, with the callbacks that `dlhpc train` has."""
    moments: dict[type[Event], float] = {}

    @wants(Started, Finished)
    def stopwatch(event: Event) -> None:
        moments[type(event)] = time.perf_counter()

    with tempfile.TemporaryDirectory() as folder:
        callbacks: list[Callback] = [
            progress(io.StringIO()),
            History(Path(folder)),
            stop_on_nan(LEARNING_RATE),
            stopwatch,
        ]
        fit(learner, run, Recorded(pairs), callbacks=callbacks)
    return moments[Finished] - moments[Started]
