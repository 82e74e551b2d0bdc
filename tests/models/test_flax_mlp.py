"""The Flax MLP: its parameters are the table's, its forward pass is the textbook's."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dlhpc.models.flax_mlp import FlaxMLP
from dlhpc.spec.model import MLPSpec
from dlhpc.weights.init import initial_weights
from dlhpc.weights.layout import layout
from dlhpc.weights.table import param_table


@pytest.mark.parametrize("normalization", ["none", "layer"])
@pytest.mark.parametrize("hidden_sizes", [(), (7,), (7, 5)])
def test_parameters_are_the_table(hidden_sizes: tuple[int, ...], normalization: str) -> None:
    spec = MLPSpec.model_validate(
        {"num_classes": 3, "input_shape": (4, 5, 2), "hidden_sizes": hidden_sizes, "normalization": normalization}
    )
    table = param_table(spec)
    state = nnx.state(nnx.eval_shape(lambda: FlaxMLP(spec, jnp.float32)))
    shapes = {"/".join(map(str, path)): leaf.shape for path, leaf in nnx.to_flat_state(state)}
    rows = {row.name: row.shape for row in table}
    assert shapes == {
        place.name: place.framework_shape(rows[place.canonical]) for place in layout("flax", table).places
    }


def test_forward_pass_by_hand() -> None:
    spec = MLPSpec(num_classes=3, input_shape=(2, 3, 1), hidden_sizes=(4,), activation="relu")
    weights = initial_weights(param_table(spec), 0)
    weights["dense_0/bias"] += 0.1
    graph, _ = nnx.split(nnx.eval_shape(lambda: FlaxMLP(spec, jnp.float32)))
    nested = {
        module: {leaf: jnp.asarray(weights[f"{module}/{leaf}"]) for leaf in ("kernel", "bias")}
        for module in ("dense_0", "head")
    }
    x = np.random.default_rng(0).standard_normal((5, 2, 3, 1)).astype(np.float32)
    hidden = np.maximum(x.reshape(5, 6) @ weights["dense_0/kernel"] + weights["dense_0/bias"], 0)
    expected = hidden @ weights["head/kernel"] + weights["head/bias"]
    logits = jax.jit(lambda nested, x: nnx.merge(graph, nested)(x))(nested, x)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)
