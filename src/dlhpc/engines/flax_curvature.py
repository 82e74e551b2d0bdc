"""Sophia's estimates of the Hessian's diagonal, over the whole batch, from draws that PyTorch makes too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dlhpc import draws
from dlhpc.draws import MASK32, PROBES, SAMPLED_LABELS
from dlhpc.engines.flax_network import Forward, Params, loss_sum
from dlhpc.engines.flax_parts import Part, sum_over_parts
from dlhpc.models.flax_layers import WORDS
from dlhpc.optimizers.flax_estimators import hutchinson, sample_labels, squared_gradient
from dlhpc.spec.optimizer import SophiaSpec
from dlhpc.spec.run import RunSpec
from dlhpc.weights.table import Param

Estimator = Callable[[Params, Part, Any, Any], Params]
"""(parameters, the whole batch, its real rows, number of the step) -> estimate, like the parameters."""


def estimator(run: RunSpec, table: tuple[Param, ...], forward: Forward) -> Estimator | None:
    """What a run's optimizer asks for, if anything."""
    match run.optimizer:
        case SophiaSpec(estimator="gnb"):
            return GaussNewtonBartlett(run, forward)
        case SophiaSpec():
            return Hutchinson(run, table, forward)
        case _:
            return None


class GaussNewtonBartlett:
    """B g^2 for the gradient g of the mean cross entropy on labels drawn from the model, without label smoothing."""

    def __init__(self, run: RunSpec, forward: Forward) -> None:
        self._seed, self._parts, self._forward = run.seed & MASK32, run.training.gradient_accumulation, forward

    def __call__(self, params: Params, whole: Part, count: Any, step: Any) -> Params:
        def objective(params: Params, part: Part) -> jax.Array:
            logits = self._forward(params, part.inputs, None)
            labels = sample_labels(logits, self._noise(logits, part.first_row, step))
            return loss_sum(logits, jnp.where(part.labels >= 0, labels, part.labels), 0.0) / count

        gradients = sum_over_parts(jax.grad(objective), params, whole, self._parts)
        return {name: squared_gradient(gradient, count) for name, gradient in gradients.items()}

    def _noise(self, logits: jax.Array, first_row: Any, step: Any) -> jax.Array:
        rows, classes = (jnp.arange(size, dtype=jnp.uint32) for size in logits.shape)
        counters = (self._seed, step, SAMPLED_LABELS, (first_row + rows)[:, None], classes[None, :])
        noise: jax.Array = draws.gumbel(WORDS, jnp, logits.dtype, *counters)
        return noise


class Hutchinson:
    """u * (Hessian u) of the training objective without dropout, for normal vectors u."""

    def __init__(self, run: RunSpec, table: tuple[Param, ...], forward: Forward) -> None:
        self._seed, self._table, self._forward = run.seed & MASK32, table, forward
        self._parts, self._smoothing = run.training.gradient_accumulation, run.training.label_smoothing

    def __call__(self, params: Params, whole: Part, count: Any, step: Any) -> Params:
        probes = {row.name: self._probe(index, params[row.name], step) for index, row in enumerate(self._table)}

        def estimate(params: Params, part: Part) -> Any:
            def objective(params: Params) -> jax.Array:
                return loss_sum(self._forward(params, part.inputs, None), part.labels, self._smoothing) / count

            return hutchinson(objective, params, probes)

        total: Params = sum_over_parts(estimate, params, whole, self._parts)
        return total

    def _probe(self, index: int, like: jax.Array, step: Any) -> jax.Array:
        """Numbered in canonical order, which is Flax's own."""
        elements = jnp.arange(like.size, dtype=jnp.uint32).reshape(like.shape)
        probe: jax.Array = draws.normal(WORDS, jnp, like.dtype, self._seed, step, PROBES + index, elements)
        return probe
