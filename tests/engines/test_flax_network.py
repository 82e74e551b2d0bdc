"""The Flax network's preprocessing, loss and counts against numpy and scipy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from dlhpc.engines.flax_network import Normalize, build_model, correct_count, forward_function, loss_sum, numbers
from dlhpc.ports import Preprocessing
from dlhpc.spec.model import MLPSpec
from dlhpc.weights.init import initial_weights
from dlhpc.weights.table import param_table


def test_number_formats() -> None:
    assert numbers("float32") == (jnp.float32, jnp.float32)
    assert numbers("bfloat16") == (jnp.bfloat16, jnp.float32)
    assert numbers("float64") == (jnp.float64, jnp.float64)


def test_bytes_are_scaled_and_floats_are_not() -> None:
    normalize = Normalize(Preprocessing((0.5, 0.25), (0.5, 2.0)), numbers("float32"))
    pixels = np.array([[0, 255], [51, 102]], np.uint8)
    expected = (pixels / 255 - [0.5, 0.25]) / [0.5, 2.0]
    np.testing.assert_allclose(normalize(jnp.asarray(pixels)), expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(normalize(jnp.asarray(pixels / 255, jnp.float32)), expected, rtol=1e-6, atol=1e-7)
    assert Normalize(Preprocessing((0.5,), (0.5,)), numbers("bfloat16"))(jnp.asarray(pixels)).dtype == jnp.bfloat16


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_loss_is_cross_entropy_with_smoothed_targets_over_real_rows(smoothing: float) -> None:
    draw = np.random.default_rng(0)
    logits, labels = draw.normal(0, 5, (6, 4)), np.array([0, 3, 1, 2, -1, -1])
    targets = np.eye(4)[np.maximum(labels, 0)] * (1 - smoothing) + smoothing / 4
    expected = -(targets * special.log_softmax(logits, axis=1)).sum(axis=1)[labels >= 0].sum()
    with jax.enable_x64(True):
        loss = loss_sum(jnp.asarray(logits), jnp.asarray(labels), smoothing)
        assert float(loss) == pytest.approx(expected, rel=1e-12)


def test_padding_weighs_nothing_whatever_its_logits_are() -> None:
    logits = jnp.array([[1.0, 2.0], [jnp.inf, 0.0]])
    labels = jnp.array([1, -1])
    assert float(loss_sum(logits, labels, 0.1)) == pytest.approx(float(loss_sum(logits[:1], labels[:1], 0.1)))
    assert int(correct_count(logits, labels)) == 1


def test_logits_come_in_the_master_type_for_bytes_and_floats_alike() -> None:
    spec = MLPSpec(num_classes=3, input_shape=(2, 3, 1), hidden_sizes=(4,))
    params = {name: jnp.asarray(array) for name, array in initial_weights(param_table(spec), 0).items()}
    forward = forward_function(spec, Preprocessing((0.5,), (0.5,)), numbers("bfloat16"))
    pixels = np.random.default_rng(0).integers(0, 256, (5, 2, 3, 1), dtype=np.uint8)
    from_bytes = forward(params, jnp.asarray(pixels), None)
    assert from_bytes.dtype == jnp.float32
    np.testing.assert_array_equal(from_bytes, forward(params, jnp.asarray(pixels / np.float32(255)), None))


def test_an_unresolved_model_cannot_be_built() -> None:
    with pytest.raises(ValueError, match="must be resolved"):
        build_model(MLPSpec(), jnp.float32)
