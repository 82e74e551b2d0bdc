"""What a predictor accepts, and in which sizes it computes, the same for both frameworks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from dlhpc.errors import DataError

LARGEST_BATCH = 256
"""More examples are worked through in parts of this size."""


def check_inputs(inputs: npt.NDArray[Any], input_shape: tuple[int, int, int]) -> npt.NDArray[Any]:
    """The inputs as uint8 or float32. Raises DataError unless they are (N, H, W, C) uint8, or floats in 0..1."""
    inputs = np.asarray(inputs)
    if inputs.ndim != 4 or inputs.shape[1:] != input_shape:
        height, width, channels = input_shape
        raise DataError(f"inputs have shape {inputs.shape}, expected (N, {height}, {width}, {channels})")
    if inputs.dtype == np.uint8:
        return inputs
    if not np.issubdtype(inputs.dtype, np.floating):
        raise DataError(f"inputs have type {inputs.dtype}, expected uint8 in 0..255 or floating point in 0..1")
    if inputs.size and not (inputs.min() >= 0.0 and inputs.max() <= 1.0):
        raise DataError(
            f"floating point inputs span {inputs.min():g}..{inputs.max():g}, expected 0..1; "
            "divide by 255, or pass uint8 (normalisation is the model's own business)"
        )
    return inputs.astype(np.float32, copy=False)


def padded_parts(inputs: npt.NDArray[Any]) -> Iterator[tuple[npt.NDArray[Any], int]]:
    """Parts of at most LARGEST_BATCH rows, zero-padded to a power of two, each with its number of real rows.

    So at most nine batch sizes are ever compiled.
    """
    for start in range(0, len(inputs), LARGEST_BATCH):
        part = inputs[start : start + LARGEST_BATCH]
        padded = np.zeros((1 << (len(part) - 1).bit_length(), *part.shape[1:]), part.dtype)
        padded[: len(part)] = part
        yield padded, len(part)
