"""A slot: one version of a model, loaded and ready to answer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dlhpc.ports import Predictor
from dlhpc.spec.wire import ModelInfo


@dataclass(frozen=True)
class Slot:
    """A loaded version."""

    info: ModelInfo
    predictor: Predictor

    def warm_up(self, max_batch_size: int) -> None:
        """Compute once in every batch size that is compiled, so that no request waits for a compiler."""
        size = 1
        while size < 2 * max_batch_size:  # predictors pad to the next power of two
            self.predictor(np.zeros((min(size, max_batch_size), *self.info.input_shape), np.uint8))
            size *= 2
