"""From a plan to batches: this process's rows, augmented, stacked, made ahead on a thread.

A batch is a function of (data, spec, seed, step): the number of processes, a restart, and how far a thread runs
ahead change nothing. Every batch owns its arrays; none is written to again after it was handed out.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from dlhpc.data.augment import augment
from dlhpc.data.batch import HostBatch
from dlhpc.data.dataset import Dataset, Part
from dlhpc.data.plan import Plan
from dlhpc.data.prefetch import prefetch
from dlhpc.errors import UsageError
from dlhpc.spec.data import DataSpec

PADDING = -1
"""Label of a row that holds no example."""
PIXELS_TOGETHER = 1 << 15
"""A stream makes the batches of several dispatches in one go up to this size: below it, numpy's calls cost more than
their work."""


class TrainingBatches:
    """The training part as batches for one process."""

    def __init__(
        self,
        dataset: Dataset,
        spec: DataSpec,
        plan: Plan,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        steps_per_dispatch: int = 1,
    ) -> None:
        """Batches of `plan` over `dataset`'s training part; process `rank` of `world_size` takes contiguous rows.

        Raises UsageError when the batch cannot be cut into equal shares.
        """
        self._dataset = dataset
        self._augment = spec.augment
        self._plan = plan
        self._seed = seed
        self._rows = _share(plan.batch_size, rank, world_size)
        self._steps = steps_per_dispatch
        self._ids = dataset.ids("train")

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every example is seen once."""
        return self._plan.steps_per_epoch

    def read(self, step: int, steps: int | None = None) -> HostBatch:
        """The batch of steps [step, step + steps), by default steps_per_dispatch of them."""
        ahead = range(step, step + (self._steps if steps is None else steps))
        taken = [self._plan.positions(each)[self._rows] for each in ahead]
        positions = np.concatenate(taken)
        epochs = np.repeat([self._plan.epoch(each) for each in ahead], [len(each) for each in taken])
        inputs, labels = self._dataset.read("train", positions)
        inputs = augment(inputs, self._ids[positions], epochs, self._augment, self._seed)
        return _stack(
            inputs, labels, [len(each) for each in taken], [self._plan.count(each) for each in ahead], self._rows
        )

    def stream(self, start: int, stop: int) -> Generator[HostBatch, None, None]:
        """The batches of steps [start, stop), made ahead on a thread; the last holds fewer steps if they run out.

        Close the generator (contextlib.closing) to stop the thread early.
        """
        height, width, _ = self._dataset.info.input_shape
        pixels = (self._rows.stop - self._rows.start) * height * width * self._steps
        together = self._steps * max(1, PIXELS_TOGETHER // pixels)
        bounds = [*range(start, stop, together), stop] if start < stop else []
        with closing(prefetch(lambda span: self.read(span[0], span[1] - span[0]), pairwise(bounds))) as blocks:
            for block in blocks:
                for first in range(0, len(block.counts), self._steps):
                    part = slice(first, first + self._steps)
                    yield HostBatch(block.inputs[part], block.labels[part], block.counts[part], block.first_row)


def evaluation_batches(
    dataset: Dataset, part: Part, batch_size: int, *, rank: int = 0, world_size: int = 1
) -> Iterator[HostBatch]:
    """A part in order, as batches of one step (K = 1), each of batch_size / world_size rows for this process.

    Every process gets equally many batches; rows without an example are padding.
    """
    rows = _share(batch_size, rank, world_size)
    size = dataset.info.sizes[part]

    def make(start: int) -> HostBatch:
        positions = np.arange(start, min(start + batch_size, size))
        mine = positions[rows]
        inputs, labels = dataset.read(part, mine)
        return _stack(inputs, labels, [len(mine)], [len(positions)], rows)

    return prefetch(make, range(0, size, batch_size))


def _share(batch_size: int, rank: int, world_size: int) -> slice:
    """The rows of the global batch that belong to a process."""
    if not 0 <= rank < world_size:
        raise UsageError(f"rank {rank} is not one of {world_size} processes")
    if batch_size % world_size:
        raise UsageError(
            f"training.batch_size: {batch_size} rows cannot be shared equally by {world_size} processes; "
            f"use a multiple of {world_size}"
        )
    rows = batch_size // world_size
    return slice(rank * rows, (rank + 1) * rows)


def _stack(
    inputs: npt.NDArray[Any], labels: npt.NDArray[np.int32], taken: list[int], counts: list[int], rows: slice
) -> HostBatch:
    """Cut the examples of consecutive steps into [K, b, ...] and pad the rows that are left."""
    steps, share = len(taken), rows.stop - rows.start
    if sum(taken) == steps * share:
        stacked, targets = inputs.reshape(steps, share, *inputs.shape[1:]), labels.reshape(steps, share)
    else:
        stacked = np.zeros((steps, share, *inputs.shape[1:]), inputs.dtype)
        targets = np.full((steps, share), PADDING, np.int32)
        end = np.cumsum(taken)
        for step, length in enumerate(taken):
            stacked[step, :length] = inputs[end[step] - length : end[step]]
            targets[step, :length] = labels[end[step] - length : end[step]]
    return HostBatch(stacked, targets, np.asarray(counts, np.int32), rows.start)
