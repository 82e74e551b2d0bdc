"""What the data side hands to a learner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class HostBatch:
    """This process's rows of K consecutive steps, still on the host."""

    inputs: npt.NDArray[Any]
    """[K, b, H, W, C] uint8 (or float32, already in 0..1)."""
    labels: npt.NDArray[np.int32]
    """[K, b]; -1 marks padding, which weighs nothing."""
    counts: npt.NDArray[np.int32]
    """[K] real examples of each step over ALL processes: the loss is the sum over them divided by this."""
    first_row: int = 0
    """Index of this process's first row in the global batch, so that dropout does not depend on the cut."""
