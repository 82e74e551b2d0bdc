"""What is said when numbers stop being finite."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dlhpc.errors import TrainingError


def diverged(step: int, what: str, learning_rate: float, last_good: Path | None) -> TrainingError:
    """The error for `what` (the loss, ...) that is not finite at a step; `learning_rate` is the run's peak."""
    way_back = f"the last good checkpoint is {last_good}" if last_good else "no checkpoint had been written yet"
    return TrainingError(
        f"step {step}: {what} not finite any more, so the run cannot go on. Lower training.learning_rate (it is "
        f"{learning_rate:g}), warm up longer (training.schedule.warmup), or look for odd examples with `dlhpc data`; "
        f"{way_back}"
    )


def all_finite(arrays: Mapping[str, npt.NDArray[Any]]) -> bool:
    """Whether no array holds a NaN or an infinity."""
    return all(np.isfinite(array).all() for array in arrays.values())
