"""Between the gradients of a whole batch and the weights: NaN policy, clipping, Hessian estimates, the rule."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
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
        if estimate is not None:
            optimizer, finite = self._curved(optimizer, estimate, finite)
        rates = {name: learning_rate * scale for name, scale in self._lr_scales.items()}
        step = partial(self.optimizer.step, gradients, optimizer, params, lr=rates, decay=self._decays)
        if finite is None:
            moved, state = step()
            return Outcome(moved, state, {})
        # A branch leaves the buffers in place; choosing element by element was seven times slower on a CPU.
        moved, state = jax.lax.cond(finite, step, lambda: (params, optimizer)) if self._policy == "skip" else step()
        return Outcome(moved, state, {"non_finite": (~finite).astype(jnp.int32)})

    def _curved(
        self, optimizer: OptimizerState, estimate: Callable[[], Params], finite: jax.Array | None
    ) -> tuple[OptimizerState, jax.Array | None]:
        """The state with an estimate folded in where one is due, and whether everything was finite (None: not asked).

        A step that is skipped leaves the average as it was.
        """
        applied, slots = optimizer
        curvature = self.optimizer.bound.curvature
        assert curvature is not None
        index = self.optimizer.bound.slots.index(curvature.slot)

        def folded() -> tuple[Any, jax.Array | None]:
            fresh = estimate()
            if finite is None:
                return self.optimizer.fold(slots, fresh)[index], None
            usable = finite & all_finite(fresh)
            if self._policy == "zero":
                return self.optimizer.fold(slots, cleared(fresh))[index], usable
            average = self.optimizer.fold(slots, fresh)[index]
            return jax.tree.map(lambda new, old: jnp.where(usable, new, old), average, slots[index]), usable

        due = curvature.due(applied) if finite is None or self._policy == "zero" else curvature.due(applied) & finite
        # Only the average goes through the branches: whatever does may be copied.
        average, finite = jax.lax.cond(due, folded, lambda: (slots[index], finite))
        return (applied, (*slots[:index], average, *slots[index + 1 :])), finite
