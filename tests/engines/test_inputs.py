"""What predictors accept, and in which sizes they compute."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from dlhpc.engines.inputs import LARGEST_BATCH, check_inputs, padded_parts
from dlhpc.errors import DataError

SHAPE = (4, 5, 1)


def test_bytes_stay_and_floats_become_float32() -> None:
    pixels = np.full((2, *SHAPE), 7, np.uint8)
    assert check_inputs(pixels, SHAPE) is pixels
    assert check_inputs(np.full((2, *SHAPE), 0.5), SHAPE).dtype == np.float32
    assert check_inputs(np.zeros((0, *SHAPE), np.float32), SHAPE).shape == (0, *SHAPE)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (np.zeros((2, 5, 4, 1), np.uint8), r"shape \(2, 5, 4, 1\), expected \(N, 4, 5, 1\)"),
        (np.zeros(SHAPE, np.uint8), r"shape \(4, 5, 1\), expected \(N, 4, 5, 1\)"),
        (np.zeros((2, *SHAPE), np.int64), "type int64, expected uint8"),
        (np.full((2, *SHAPE), 255.0), "span 255..255, expected 0..1; divide by 255"),
        (np.full((2, *SHAPE), -0.1), "expected 0..1"),
        (np.full((2, *SHAPE), np.nan), "span nan..nan"),
    ],
)
def test_anything_else_is_refused(inputs: npt.NDArray[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_inputs(inputs, SHAPE)


@pytest.mark.parametrize("rows", [1, 2, 3, 8, 255, 256, 257, 600])
def test_parts_are_powers_of_two_and_give_every_row_once(rows: int) -> None:
    inputs = np.arange(rows, dtype=np.uint8).reshape(rows, 1, 1, 1)
    parts = list(padded_parts(inputs))
    assert all(len(part) <= LARGEST_BATCH and len(part).bit_count() == 1 for part, _ in parts)
    np.testing.assert_array_equal(np.concatenate([part[:real] for part, real in parts]), inputs)
    assert all(not part[real:].any() for part, real in parts)
    assert all(len(part) < 2 * real for part, real in parts)


def test_no_rows_make_no_part() -> None:
    assert list(padded_parts(np.zeros((0, *SHAPE), np.uint8))) == []
