"""A slot is warmed up in every size that its predictor compiles."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from dlhpc.serving.slots import Slot
from tests.serving.asgi import INFO, SHAPE, brightness


@pytest.mark.parametrize(
    ("most", "sizes"),
    [(1, [1]), (2, [1, 2]), (5, [1, 2, 4, 5]), (32, [1, 2, 4, 8, 16, 32]), (48, [1, 2, 4, 8, 16, 32, 48])],
)
def test_every_power_of_two_up_to_the_largest_batch_is_computed_once(most: int, sizes: list[int]) -> None:
    seen: list[npt.NDArray[Any]] = []

    def predictor(inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        seen.append(inputs)
        return brightness(inputs)

    Slot(INFO, predictor).warm_up(most)
    assert [inputs.shape for inputs in seen] == [(size, *SHAPE) for size in sizes]
    assert {inputs.dtype for inputs in seen} == {np.dtype(np.uint8)}
