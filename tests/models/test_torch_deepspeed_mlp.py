"""The PyTorch MLP: its parameters are the table's, its forward pass is the textbook's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from dlhpc.models.torch_deepspeed_mlp import TorchDeepSpeedMLP
from dlhpc.spec.model import MLPSpec
from dlhpc.weights.init import initial_weights
from dlhpc.weights.layout import layout
from dlhpc.weights.table import param_table


@pytest.mark.parametrize("normalization", ["none", "layer"])
@pytest.mark.parametrize("hidden_sizes", [(), (7,), (7, 5)])
def test_parameters_are_the_table_in_its_order(hidden_sizes: tuple[int, ...], normalization: str) -> None:
    spec = MLPSpec.model_validate(
        {"num_classes": 3, "input_shape": (4, 5, 2), "hidden_sizes": hidden_sizes, "normalization": normalization}
    )
    table = param_table(spec)
    rows = {row.name: row.shape for row in table}
    shapes = [(name, tuple(tensor.shape)) for name, tensor in TorchDeepSpeedMLP(spec, torch.float32).named_parameters()]
    places = layout("torch", table).places
    assert shapes == [(place.name, place.framework_shape(rows[place.canonical])) for place in places]


def test_forward_pass_by_hand() -> None:
    spec = MLPSpec(num_classes=3, input_shape=(2, 3, 1), hidden_sizes=(4,), activation="relu")
    weights: Any = initial_weights(param_table(spec), 0)
    weights["dense_0/bias"] += 0.1
    model = TorchDeepSpeedMLP(spec, torch.float32)
    arrays = layout("torch", param_table(spec)).to_framework(weights)
    model.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    x = np.random.default_rng(0).standard_normal((5, 2, 3, 1)).astype(np.float32)
    hidden = np.maximum(x.reshape(5, 6) @ weights["dense_0/kernel"] + weights["dense_0/bias"], 0)
    expected = hidden @ weights["head/kernel"] + weights["head/bias"]
    np.testing.assert_allclose(model(torch.from_numpy(x)).detach(), expected, rtol=1e-5, atol=1e-6)
