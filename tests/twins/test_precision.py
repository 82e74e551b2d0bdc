"""Answers in bfloat16: near those in float32, not the same, and equally near in both frameworks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dlhpc.backends import load_backend
from dlhpc.ports import Preprocessing
from dlhpc.spec.model import CNNSpec, MLPSpec, ModelSpec
from dlhpc.weights.init import initial_weights
from dlhpc.weights.table import narrow_rows, param_table

MLP = MLPSpec(num_classes=5, input_shape=(4, 4, 1), hidden_sizes=(32,), normalization="layer")
CNN = CNNSpec(num_classes=5, input_shape=(4, 4, 1), channels=(8,), strides=(1,), hidden_sizes=(16,))
INPUTS = np.random.default_rng(0).integers(0, 256, (7, 4, 4, 1), dtype=np.uint8)


def answers(backend: str, spec: ModelSpec, **precision: Any) -> Any:
    weights = initial_weights(param_table(spec), 0)
    return load_backend(backend).predictor(spec, weights, Preprocessing((0.5,), (0.25,)), **precision)(INPUTS)


@pytest.mark.parametrize("spec", [MLP, CNN])
@pytest.mark.parametrize("backend", ["flax", "torch"])
def test_bfloat16_rounds_and_is_no_further_off(backend: str, spec: ModelSpec) -> None:
    exact, rounded = answers(backend, spec), answers(backend, spec, precision="bfloat16")
    assert rounded.dtype == np.float32
    np.testing.assert_allclose(rounded.sum(axis=1), 1, atol=1e-6)  # probabilities are made in float32
    assert 1e-5 < np.abs(rounded - exact).max() < 0.02
    np.testing.assert_array_equal(answers(backend, spec, precision="float32"), exact)


def test_weights_are_kept_in_16_bits_but_for_those_of_norms() -> None:
    narrow = narrow_rows(param_table(MLP))
    assert narrow == {"dense_0/kernel", "dense_0/bias", "head/kernel", "head/bias"}
    weights = initial_weights(param_table(MLP), 0)
    torch: Any = load_backend("torch").predictor(MLP, weights, Preprocessing((0.5,), (0.25,)), "bfloat16")
    types = {name: str(row.dtype) for name, row in torch._module.named_parameters()}
    assert {name for name, dtype in types.items() if dtype == "torch.float32"} == {
        "dense_norm_0.weight",
        "dense_norm_0.bias",
    }
    flax: Any = load_backend("flax").predictor(MLP, weights, Preprocessing((0.5,), (0.25,)), "bfloat16")
    assert {name for name, row in flax._params.items() if str(row.dtype) == "bfloat16"} == narrow
