"""First weights: a law, a seed and a name, nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from dlhpc.spec.model import CNNSpec, MLPSpec
from dlhpc.weights.init import initial_weights
from dlhpc.weights.table import param_table

TABLE = param_table(CNNSpec(num_classes=10, input_shape=(16, 16, 3), normalization="layer"))


def test_kernels_follow_their_law_and_the_rest_is_constant() -> None:
    weights = initial_weights(TABLE, seed=3)
    kernel = weights["conv_1/kernel"].ravel()
    assert stats.kstest(kernel / np.sqrt(2 / (3 * 3 * 32)), "norm").pvalue > 0.01
    head = weights["head/kernel"].ravel()
    assert head.std() == pytest.approx(np.sqrt(1 / 128), rel=0.1)
    assert not weights["conv_0/bias"].any()
    assert (weights["conv_norm_0/scale"] == 1).all()


def test_the_seed_changes_every_kernel_and_the_dtype_only_rounds() -> None:
    one, two = initial_weights(TABLE, 1), initial_weights(TABLE, 2)
    double = initial_weights(TABLE, 1, np.float64)
    for row in TABLE:
        assert one[row.name].shape == row.shape
        assert one[row.name].dtype == np.float32
        assert np.array_equal(one[row.name], double[row.name].astype(np.float32))
        assert np.array_equal(one[row.name], two[row.name]) == (row.init in {"zeros", "ones"})


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    small = param_table(MLPSpec(num_classes=10, input_shape=(4, 4, 1), hidden_sizes=(8,)))
    deep = param_table(MLPSpec(num_classes=10, input_shape=(4, 4, 1), hidden_sizes=(8, 8)))
    a, b = initial_weights(small, 0), initial_weights(deep, 0)
    assert np.array_equal(a["dense_0/kernel"], b["dense_0/kernel"])
