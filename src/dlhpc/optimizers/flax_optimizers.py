"""The shared rules on JAX pytrees: as one exact step for the learner, and as an optax transformation.

tx = build(LionSpec())
updates, state = tx.update(grads, state, params, lr=1e-4)
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from dlhpc.optimizers.rules import BoundRule, Scalars, bind
from dlhpc.spec.optimizer import OptimizerSpec

Tree = Any
"""A pytree of arrays, of one structure throughout: parameters, gradients, a slot."""
OptimizerState = tuple[jax.Array, tuple[Tree, ...]]
"""Updates made so far (int32), and for each slot of the rule a tree of the parameters' structure."""


class RuleOptimizer:
    """One bound rule over all leaves of a pytree."""

    def __init__(self, bound: BoundRule) -> None:
        self.bound = bound

    def init(self, params: Tree) -> OptimizerState:
        """No update made, slots zero."""
        return jnp.zeros((), jnp.int32), tuple(jax.tree.map(jnp.zeros_like, params) for _ in self.bound.slots)

    def step(
        self, grads: Tree, state: OptimizerState, params: Tree, *, lr: Tree, decay: Tree
    ) -> tuple[Tree, OptimizerState]:
        """Parameters and state after one update; `lr` and `decay` are scalars, or trees of them like the parameters."""
        structure: Any = jax.tree.structure(params)
        applied, slots = state[0] + 1, state[1]
        columns = (
            structure.flatten_up_to(grads),
            zip(*map(structure.flatten_up_to, slots), strict=True),
            structure.flatten_up_to(params),
            _spread(lr, structure),
            _spread(decay, structure),
        )
        moved = [
            self.bound.rule(jnp, g, leaf_slots, x, Scalars(rate, factor, applied.astype(x.dtype)))
            for g, leaf_slots, x, rate, factor in zip(*columns, strict=True)
        ]
        new_slots = zip(*(leaf_slots for leaf_slots, _ in moved), strict=True)
        return structure.unflatten([x for _, x in moved]), (applied, tuple(map(structure.unflatten, new_slots)))


def build(spec: OptimizerSpec) -> optax.GradientTransformationExtraArgs:
    """The rule for any optax user: `update(grads, state, params, lr=..., decay=...)`.

    `lr` and `decay` are numbers, arrays, or trees of them like the parameters; `decay` is the spec's weight_decay for
    every leaf when absent. Applying an update adds the rounding of x + (x' - x) to the rule's own x'.
    """
    optimizer = RuleOptimizer(bind(spec))

    def update(
        updates: optax.Updates,
        state: OptimizerState,
        params: optax.Params | None = None,
        *,
        lr: Tree,
        decay: Tree = spec.weight_decay,
        **_: Any,
    ) -> tuple[optax.Updates, OptimizerState]:
        if params is None:
            raise ValueError("update() needs params: the rule decays and moves them")
        moved, state = optimizer.step(updates, state, params, lr=lr, decay=decay)
        return jax.tree.map(jnp.subtract, moved, params), state

    return optax.GradientTransformationExtraArgs(optimizer.init, update)


def _spread(value: Tree, structure: Any) -> list[Any]:
    if jax.tree_util.all_leaves([value]):
        return [value] * structure.num_leaves
    leaves: list[Any] = structure.flatten_up_to(value)
    return leaves
