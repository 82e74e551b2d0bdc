"""The same weights give the same logits, loss and gradients in both frameworks; the gradients are the derivative."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any, Literal

import numpy as np
import pytest

from tests.twins.networks import (
    DROPPING,
    SPECS,
    Answer,
    Arrays,
    difference,
    flax_answer,
    random_batch,
    random_spec,
    torch_answer,
    trained_weights,
)

LIMITS = {"float32": (1e-5, 1e-4), "float64": (1e-11, 1e-10)}
Framework = Literal["flax", "torch"]
weights_of = cache(lambda name: trained_weights(SPECS[name]))


@cache
def answer(framework: Framework, name: str, precision: str, dropout: bool = False) -> Answer:
    """To one batch; kept, since compiling is what these tests' time goes to."""
    function = flax_answer if framework == "flax" else torch_answer
    spec = SPECS[name]
    return function(spec, weights_of(name), random_batch(spec, seed=99), precision, DROPPING if dropout else None)


def assert_twins(flax: Answer, torch: Answer, precision: str) -> None:
    output_limit, gradient_limit = LIMITS[precision]
    assert flax.logits.dtype == torch.logits.dtype == np.dtype(precision)
    assert difference(flax.logits, torch.logits) <= output_limit
    assert flax.loss == pytest.approx(torch.loss, rel=output_limit)
    assert flax.gradients.keys() == torch.gradients.keys()
    for row, gradient in torch.gradients.items():
        assert np.any(gradient), f"{row} has no gradient: the test would show nothing"
        assert difference(flax.gradients[row], gradient) <= gradient_limit, row


@pytest.mark.parametrize("precision", LIMITS)
@pytest.mark.parametrize("name", SPECS)
def test_outputs_and_gradients_agree(name: str, precision: str) -> None:
    assert all(np.any(array) for array in weights_of(name).values())
    assert_twins(answer("flax", name, precision), answer("torch", name, precision), precision)


@pytest.mark.parametrize(
    ("name", "precision"), [("mlp-layer-silu", "float64"), ("mlp", "float32"), ("cnn-even-kernel", "float64")]
)
def test_outputs_and_gradients_agree_under_dropout(name: str, precision: str) -> None:
    flax, torch = (answer(framework, name, precision, dropout=True) for framework in ("flax", "torch"))
    assert_twins(flax, torch, precision)
    assert difference(flax.logits, answer("flax", name, precision).logits) > 0.01


@pytest.mark.parametrize("precision", LIMITS)
@pytest.mark.parametrize(
    "number", [pytest.param(number, marks=[] if number < 3 else pytest.mark.slow) for number in range(40)]
)
def test_random_models_agree(number: int, precision: str) -> None:
    spec = random_spec(number)
    weights, batch = trained_weights(spec, steps=5), random_batch(spec, seed=number)
    flax, torch = (function(spec, weights, batch, precision) for function in (flax_answer, torch_answer))
    # A gradient may vanish (units that are dead for the whole batch): then it does so in both.
    alive = {row for row, gradient in torch.gradients.items() if gradient.any()}
    assert alive == {row for row, gradient in flax.gradients.items() if gradient.any()}
    flax, torch = (replace(one, gradients={row: one.gradients[row] for row in alive}) for one in (flax, torch))
    assert_twins(flax, torch, precision)


@pytest.mark.parametrize("framework", ["flax", "torch"])
@pytest.mark.parametrize("name", ["mlp-layer-silu", "cnn-even-kernel"])
def test_gradients_are_the_derivative_of_the_loss(name: str, framework: Framework) -> None:
    """Central differences of the float64 loss along a random direction per tensor; smooth activations only."""
    spec, weights, batch = SPECS[name], weights_of(name), random_batch(SPECS[name], seed=99)
    gradients = answer(framework, name, "float64", dropout=True).gradients
    draw, step = np.random.default_rng(7), 1e-5

    def loss_at(row: str, array: Any) -> float:
        # The derivative of either framework is held against the values of torch, which compiles nothing.
        moved: Arrays = weights | {row: array}
        return torch_answer(spec, moved, batch, "float64", DROPPING).loss

    for row, array in weights.items():
        direction = draw.standard_normal(array.shape)
        measured = (loss_at(row, array + step * direction) - loss_at(row, array - step * direction)) / (2 * step)
        assert measured == pytest.approx(float(np.sum(gradients[row] * direction)), rel=1e-6, abs=1e-7), row
