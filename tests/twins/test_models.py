"""The same weights give the same logits, loss and gradients in both frameworks, and the gradients are the derivative."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dlhpc.spec.model import ModelSpec
from tests.twins.networks import (
    DROPPING,
    SPECS,
    Answer,
    difference,
    flax_answer,
    random_batch,
    random_spec,
    torch_answer,
    trained_weights,
)

LIMITS = {"float32": (1e-5, 1e-4), "float64": (1e-11, 1e-10)}


def assert_twins(flax: Answer, torch: Answer, precision: str) -> None:
    output_limit, gradient_limit = LIMITS[precision]
    assert flax.logits.dtype == torch.logits.dtype == np.dtype(precision)
    assert difference(flax.logits, torch.logits) <= output_limit
    assert flax.loss == pytest.approx(torch.loss, rel=output_limit)
    assert flax.gradients.keys() == torch.gradients.keys()
    for name, gradient in torch.gradients.items():
        assert np.any(gradient), f"{name} has no gradient: the test would show nothing"
        assert difference(flax.gradients[name], gradient) <= gradient_limit, name


@pytest.mark.parametrize("precision", LIMITS)
@pytest.mark.parametrize("name", SPECS)
def test_outputs_and_gradients_agree(name: str, precision: str) -> None:
    spec = SPECS[name]
    weights, batch = trained_weights(spec), random_batch(spec, seed=99)
    assert all(np.any(array) for array in weights.values())
    assert_twins(flax_answer(spec, weights, batch, precision), torch_answer(spec, weights, batch, precision), precision)


@pytest.mark.parametrize("precision", LIMITS)
@pytest.mark.parametrize("name", ["mlp-layer-silu", "cnn"])
def test_outputs_and_gradients_agree_under_dropout(name: str, precision: str) -> None:
    spec = SPECS[name]
    weights, batch = trained_weights(spec), random_batch(spec, seed=99)
    dropped = flax_answer(spec, weights, batch, precision, DROPPING)
    assert_twins(dropped, torch_answer(spec, weights, batch, precision, DROPPING), precision)
    assert difference(dropped.logits, flax_answer(spec, weights, batch, precision).logits) > 0.01


@pytest.mark.parametrize("number", range(8))
def test_random_models_agree(number: int) -> None:
    _assert_random_model_agrees(number)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(8, 200))
def test_many_random_models_agree(number: int) -> None:
    _assert_random_model_agrees(number)


def _assert_random_model_agrees(number: int) -> None:
    spec = random_spec(number)
    weights, batch = trained_weights(spec, steps=5), random_batch(spec, seed=number)
    flax, torch = (answer(spec, weights, batch, "float64") for answer in (flax_answer, torch_answer))
    assert difference(flax.logits, torch.logits) <= 1e-11
    for name, gradient in torch.gradients.items():
        # A gradient may vanish exactly (dead units): then it does so in both.
        assert difference(flax.gradients[name], gradient) <= 1e-10 or not (gradient.any() or flax.gradients[name].any())


@pytest.mark.parametrize("answer", [flax_answer, torch_answer])
@pytest.mark.parametrize("name", ["mlp", "mlp-layer-silu", "cnn-even-kernel", "cnn-kernel-over-image"])
def test_gradients_are_the_derivative_of_the_loss(name: str, answer: Callable[..., Answer]) -> None:
    """Central differences of the float64 loss along a random direction per tensor; smooth activations only."""
    spec: ModelSpec = SPECS[name]
    weights, batch = trained_weights(spec), random_batch(spec, seed=99)
    gradients = answer(spec, weights, batch, "float64", DROPPING).gradients
    draw, step = np.random.default_rng(7), 1e-5

    def loss_at(row: str, array: Any) -> float:
        # The derivative of one framework is checked against the values of torch, which needs no compilation.
        return torch_answer(spec, weights | {row: array}, batch, "float64", DROPPING).loss

    for row, array in weights.items():
        direction = draw.standard_normal(array.shape)
        measured = (loss_at(row, array + step * direction) - loss_at(row, array - step * direction)) / (2 * step)
        assert measured == pytest.approx(float(np.sum(gradients[row] * direction)), rel=1e-6, abs=1e-7), row
