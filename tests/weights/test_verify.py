"""Arrays that are not exactly the table are refused, each problem named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dlhpc.errors import IntegrityError
from dlhpc.spec.model import MLPSpec
from dlhpc.weights.init import initial_weights
from dlhpc.weights.state_table import APPLIED, CONSUMED, state_table
from dlhpc.weights.table import param_table
from dlhpc.weights.verify import verify_state, verify_weights

TABLE = param_table(MLPSpec(num_classes=3, input_shape=(2, 2, 1), hidden_sizes=(5,)))
SLOTS = ("m", "v")


def weights() -> dict[str, Any]:
    return dict(initial_weights(TABLE, 0))


def state() -> dict[str, Any]:
    rows = {row.name: np.zeros(row.shape, np.float32) for row in state_table(TABLE, SLOTS)}
    return rows | {CONSUMED: np.array(4), APPLIED: np.array(4)}


def test_what_fits_passes() -> None:
    verify_weights(TABLE, weights(), "x")
    verify_weights(TABLE, initial_weights(TABLE, 0, np.float64), "x")
    verify_state(TABLE, SLOTS, state(), "x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head/bias": None}, r"'head/bias' is missing, expected shape \(3,\)"),
        ({"tail/bias": np.zeros(3)}, "'tail/bias' is unknown"),
        ({"head/bias": np.zeros(4)}, r"'head/bias' has shape \(4,\), expected \(3,\)"),
        ({"dense_0/kernel": np.zeros((5, 4))}, r"'dense_0/kernel' has shape \(5, 4\), expected \(4, 5\)"),
        ({"head/bias": np.zeros(3, np.int64)}, "'head/bias' has type int64, expected floating point"),
    ],
)
def test_other_weights_are_refused(change: dict[str, Any], message: str) -> None:
    arrays = {name: array for name, array in (weights() | change).items() if array is not None}
    with pytest.raises(IntegrityError, match=f"model.safetensors does not fit .*{message}"):
        verify_weights(TABLE, arrays, "model.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({CONSUMED: np.array(4.0)}, "'counter/consumed' has type float64, expected an integer"),
        ({APPLIED: np.array([4])}, r"'counter/applied' has shape \(1,\), expected \(\)"),
        ({"slot/v/head/bias": None}, "'slot/v/head/bias' is missing"),
        ({"slot/u/head/bias": np.zeros(3)}, "'slot/u/head/bias' is unknown"),
    ],
)
def test_other_states_are_refused(change: dict[str, Any], message: str) -> None:
    arrays = {name: array for name, array in (state() | change).items() if array is not None}
    with pytest.raises(IntegrityError, match=message):
        verify_state(TABLE, SLOTS, arrays, "x")


def test_many_problems_are_counted() -> None:
    with pytest.raises(IntegrityError, match="and 6 more"):
        verify_state(TABLE, SLOTS, {}, "x")
