"""What is done to the gradients of a whole batch before the optimizer sees them: NaN policy, then clipping."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, assert_never

import jax
import jax.numpy as jnp

from dlhpc.engines.flax_network import Params
from dlhpc.optimizers.gradients import adaptive_scale, adaptively_clipped, global_norm_scale, unit_axes
from dlhpc.spec.gradients import AdaptiveClipping, Clipping, GlobalNormClipping, NoClipping
from dlhpc.weights.table import Param

Clip = Callable[[Params, Params], Params]
"""(gradients, parameters) -> gradients."""


def all_finite(arrays: Any) -> jax.Array:
    """Whether no element of a pytree is NaN or infinite: a 0-d bool array."""
    return jnp.stack([jnp.isfinite(array).all() for array in jax.tree.leaves(arrays)]).all()


def cleared(arrays: Any) -> Any:
    """The pytree with zeros for the elements that are NaN or infinite."""
    return jax.tree.map(lambda array: jnp.where(jnp.isfinite(array), array, 0.0), arrays)


def clipper(clipping: Clipping, table: tuple[Param, ...]) -> Clip | None:
    """What clips gradients, if anything. Raises ConfigError for a pattern that matches no parameter."""
    match clipping:
        case NoClipping():
            return None
        case GlobalNormClipping(max_norm=bound):
            return lambda gradients, _: clip_global_norm(gradients, bound)
        case AdaptiveClipping():
            return AdaptiveClipper(clipping, table)
        case _:
            assert_never(clipping)


def clip_global_norm(gradients: Params, max_norm: float) -> Params:
    """All gradients scaled so that their joint norm is at most `max_norm`."""
    squares = [jnp.square(gradient).sum() for gradient in gradients.values()]
    scale = global_norm_scale(jnp, jnp.sqrt(jnp.stack(squares).sum()), max_norm)
    return {name: gradient * scale for name, gradient in gradients.items()}


class AdaptiveClipper:
    """Bounds every unit's gradient norm by its weights' (AGC)."""

    def __init__(self, clipping: AdaptiveClipping, table: tuple[Param, ...]) -> None:
        clipped = adaptively_clipped(clipping, table)
        self._clipping, self._axes = clipping, {row.name: unit_axes(row) for row in table if row.name in clipped}

    def __call__(self, gradients: Params, params: Params) -> Params:
        return {
            name: self._clip(gradient, params[name], self._axes[name]) if name in self._axes else gradient
            for name, gradient in gradients.items()
        }

    def _clip(self, gradient: jax.Array, weights: jax.Array, axes: tuple[int, ...]) -> jax.Array:
        norm, weight_norm = (jnp.sqrt(jnp.square(array).sum(axes, keepdims=True)) for array in (gradient, weights))
        scale: jax.Array = adaptive_scale(jnp, norm, weight_norm, self._clipping)
        return gradient * scale
