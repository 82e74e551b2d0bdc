"""Which examples each step sees, as a function of (seed, step): a restart needs no saved generator."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dlhpc.draws import NUMPY, bits
from dlhpc.errors import UsageError

ORDER_DOMAIN = 0x5B11_7003


class Plan:
    """Epochs of shuffled positions 0..size-1, cut into steps; the last step of an epoch may be smaller.

    The order of an epoch sorts the positions by a hash of (seed, epoch, position), which stays the same when
    numpy's own generators change.
    """

    def __init__(self, size: int, batch_size: int, seed: int) -> None:
        """A plan over `size` examples, `batch_size` a step over all processes together."""
        if size < 1 or batch_size < 1:
            raise UsageError(f"a plan needs examples and a batch size; got size={size}, batch_size={batch_size}")
        self.size = size
        self.batch_size = batch_size
        self.seed = seed
        self._latest: tuple[int, npt.NDArray[np.int64]] | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every example is seen once."""
        return -(-self.size // self.batch_size)

    def epoch(self, step: int) -> int:
        """Epoch, from 0, that a step belongs to."""
        return step // self.steps_per_epoch

    def count(self, step: int) -> int:
        """Examples in a step: batch_size, or what is left at the end of an epoch."""
        return min(self.batch_size, self.size - step % self.steps_per_epoch * self.batch_size)

    def positions(self, step: int) -> npt.NDArray[np.int64]:
        """Positions in the training part of step `step` (from 0), at most batch_size of them."""
        if step < 0:
            raise UsageError(f"steps count from 0; got {step}")
        epoch, index = divmod(step, self.steps_per_epoch)
        start = index * self.batch_size
        return self._order(epoch)[start : start + self.batch_size]

    def _order(self, epoch: int) -> npt.NDArray[np.int64]:
        latest = self._latest  # one read: another thread may replace it meanwhile, never change it
        if latest is None or latest[0] != epoch:
            keys = bits(NUMPY, ORDER_DOMAIN, self.seed, epoch, np.arange(self.size))
            latest = (epoch, np.argsort(keys, kind="stable"))
            latest[1].setflags(write=False)
            self._latest = latest
        return latest[1]
