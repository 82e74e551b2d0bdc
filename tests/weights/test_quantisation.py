"""int8 kernels: how far from the weights, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dlhpc.errors import IntegrityError
from dlhpc.spec.model import CNNSpec
from dlhpc.weights.file import to_bytes
from dlhpc.weights.init import initial_weights
from dlhpc.weights.quantisation import dequantise, quantise
from dlhpc.weights.table import param_table

TABLE = param_table(
    CNNSpec(input_shape=(9, 9, 2), num_classes=5, channels=(6, 7), hidden_sizes=(32,), normalization="layer")
)


@pytest.fixture
def weights() -> Any:
    return {name: array + np.float32(0.01) for name, array in initial_weights(TABLE, 4).items()}


def test_a_kernel_is_off_by_half_a_step_of_its_channel_at_most(weights: Any) -> None:
    back = dequantise(TABLE, quantise(TABLE, weights), "here")
    assert set(back) == {row.name for row in TABLE}
    for name, array in weights.items():
        assert back[name].dtype == np.float32
        if name.endswith("kernel"):
            step = np.abs(array).max(axis=tuple(range(array.ndim - 1))) / 127
            assert (np.abs(back[name] - array) <= step * 0.5 * (1 + 1e-5)).all()
            assert np.abs(back[name] - array).max() > 0
        else:
            np.testing.assert_array_equal(back[name], array)


def test_twice_is_once(weights: Any) -> None:
    once = dequantise(TABLE, quantise(TABLE, weights), "here")
    assert to_bytes(quantise(TABLE, once)) == to_bytes(quantise(TABLE, dequantise(TABLE, quantise(TABLE, once), "")))


def test_channels_of_zeros_and_of_tiny_values_stay_what_they_are(weights: Any) -> None:
    weights["head/kernel"][:, 0] = 0
    weights["head/kernel"][:, 1] = np.float32(1e-44)
    weights["head/kernel"][:, 2] = np.float32(3e38)
    back = dequantise(TABLE, quantise(TABLE, weights), "here")["head/kernel"]
    assert (back[:, 0] == 0).all()
    assert np.abs(back[:, 1]).max() < 1e-40
    np.testing.assert_allclose(back[:, 2], np.float32(3e38), rtol=1e-6)


def test_the_file_is_about_a_quarter() -> None:
    table = param_table(CNNSpec(input_shape=(16, 16, 1), num_classes=10, channels=(8,), hidden_sizes=(64,)))
    weights = initial_weights(table, 0)
    assert len(to_bytes(quantise(table, weights))) < 0.27 * len(to_bytes(weights))


def without_scale(arrays: Any) -> None:
    del arrays["head/kernel:scale"]


def without_kernel(arrays: Any) -> None:
    del arrays["conv_0/kernel"]


def float_kernel(arrays: Any) -> None:
    arrays["head/kernel"] = arrays["head/kernel"].astype(np.float32)


def short_kernel(arrays: Any) -> None:
    arrays["head/kernel"] = arrays["head/kernel"][:-1]


def one_scale(arrays: Any) -> None:
    arrays["head/kernel:scale"] = arrays["head/kernel:scale"][:1]


def double_scale(arrays: Any) -> None:
    arrays["head/kernel:scale"] = arrays["head/kernel:scale"].astype(np.float64)


def unknown_row(arrays: Any) -> None:
    arrays["tail/bias"] = np.zeros(3, np.float32)


def integer_bias(arrays: Any) -> None:
    arrays["head/bias"] = arrays["head/bias"].astype(np.int8)


@pytest.mark.parametrize(
    "damage",
    [without_scale, without_kernel, float_kernel, short_kernel, one_scale, double_scale, unknown_row, integer_bias],
)
def test_what_is_not_the_table_is_refused_with_its_name(weights: Any, damage: Any) -> None:
    arrays = quantise(TABLE, weights)
    damage(arrays)
    with pytest.raises(IntegrityError, match=r"the file.*'(head|conv_0|tail)/"):
        dequantise(TABLE, arrays, "the file")
