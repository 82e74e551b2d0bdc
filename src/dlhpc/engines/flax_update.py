"""Between the gradients of a whole batch and the weights: NaN policy, clipping, Hessian estimates, the rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dlhpc.engines.flax_gradients import all_finite, cleared, clipper
from dlhpc.engines.flax_network import Params
from dlhpc.optimizers.flax_optimizers import OptimizerState, RuleOptimizer
from dlhpc.optimizers.groups import decays, learning_rate_scales
from dlhpc.optimizers.rules import bind_run
from dlhpc.spec.run import RunSpec
from dlhpc.weights.table import Param


class Outcome(NamedTuple):
    """What became of a step."""

    params: Params
    optimizer: OptimizerState
    metrics: dict[str, jax.Array]
    """`non_finite`, 0-d int32: 1 when gradients or the estimate were not finite; nothing under the policy `raise`."""


class Update:
    """Ends a step as a run wants it. It looks at gradients only where an option asks for it."""

    def __init__(self, run: RunSpec, table: tuple[Param, ...]) -> None:
        self.optimizer = RuleOptimizer(bind_run(run))
        self._policy = run.training.non_finite_gradients
        self._clip = clipper(run.training.clipping, table)
        self._lr_scales = learning_rate_scales(run.optimizer, table)
        self._decays = decays(run.optimizer, table)

    def __call__(
        self,
        params: Params,
        optimizer: OptimizerState,
        gradients: Params,
        *,
        learning_rate: jax.Array,
        estimate: Callable[[], Params] | None,
    ) -> Outcome:
        """One update, or none. `estimate` gives the Hessian's diagonal; it runs where the optimizer is due for it."""
        finite = None if self._policy == "raise" else all_finite(gradients)
        if self._policy == "zero":
            gradients = cleared(gradients)
        if self._clip is not None:
            gradients = self._clip(gradients, params)
        before = optimizer
        if estimate is not None:
            optimizer, estimate_finite = self._curved(optimizer, estimate)
            finite = None if finite is None else finite & estimate_finite
        rates = {name: learning_rate * scale for name, scale in self._lr_scales.items()}
        moved = self.optimizer.step(gradients, optimizer, params, lr=rates, decay=self._decays)
        if finite is None:
            return Outcome(*moved, {})
        if self._policy == "skip":
            moved = jax.tree.map(lambda new, old: jnp.where(finite, new, old), moved, (params, before))
        return Outcome(*moved, {"non_finite": (~finite).astype(jnp.int32)})

    def _curved(self, optimizer: OptimizerState, estimate: Callable[[], Params]) -> tuple[OptimizerState, jax.Array]:
        """The state with an estimate folded in where one is due, and whether it was finite."""
        applied, slots = optimizer
        curvature = self.optimizer.bound.curvature
        assert curvature is not None
        index = self.optimizer.bound.slots.index(curvature.slot)

        def folded() -> tuple[Any, jax.Array]:
            fresh = estimate()
            finite = jnp.array(True) if self._policy == "raise" else all_finite(fresh)
            usable = cleared(fresh) if self._policy == "zero" else fresh
            return self.optimizer.fold(slots, usable)[index], finite

        # Only the average goes through the branches: whatever does is copied.
        average, finite = jax.lax.cond(curvature.due(applied), folded, lambda: (slots[index], jnp.array(True)))
        return (applied, (*slots[:index], average, *slots[index + 1 :])), finite
