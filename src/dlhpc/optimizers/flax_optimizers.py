"""The shared update rules on JAX arrays: as one exact step for the learner, and as an optax transformation."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dlhpc.optimizers.rules import BoundRule, Scalars, bind
from dlhpc.spec.optimizer import OptimizerSpec

Tree = Any
"""A pytree of arrays, of one structure throughout: parameters, gradients, a slot."""


class OptimizerState(NamedTuple):
    """Slots and count of an optimizer."""

    applied: jax.Array
    """Updates made so far, int32."""
    slots: tuple[Tree, ...]
    """One tree of the parameters' structure per slot name of the rule."""


def initial_state(rule: BoundRule, params: Tree) -> OptimizerState:
    """Zero slots."""
    slots = tuple(jax.tree.map(jnp.zeros_like, params) for _ in rule.slots)
    return OptimizerState(jnp.zeros((), jnp.int32), slots)


def step(
    rule: BoundRule, grads: Tree, state: OptimizerState, params: Tree, *, lr: Tree, decay: Tree
) -> tuple[Tree, OptimizerState]:
    """One update of every leaf; `lr` and `decay` are scalars, or trees of scalars like the parameters."""
    structure: Any = jax.tree.structure(params)
    applied = state.applied + 1
    leaves = zip(
        jax.tree.leaves(grads),
        zip(*(jax.tree.leaves(slot) for slot in state.slots), strict=True),
        jax.tree.leaves(params),
        _spread(lr, structure),
        _spread(decay, structure),
        strict=True,
    )
    moved = [rule.rule(jnp, g, slots, x, Scalars(h, d, applied.astype(x.dtype))) for g, slots, x, h, d in leaves]
    slots = tuple(structure.unflatten([slots[i] for slots, _ in moved]) for i in range(len(rule.slots)))
    return structure.unflatten([x for _, x in moved]), OptimizerState(applied, slots)


def build(spec: OptimizerSpec) -> optax.GradientTransformationExtraArgs:
    """The rule for any optax user: `update(grads, state, params, lr=..., decay=...)`.

    `lr` and `decay` are numbers, arrays, or trees of them like the parameters; `decay` defaults to the spec's
    weight_decay for every leaf (the parameter table, which exempts biases and norms, is the learner's business).
    Applying an update adds a rounding of x + (x' - x) to the rule's own x'.
    """
    rule = bind(spec)

    def init(params: optax.Params) -> OptimizerState:
        return initial_state(rule, params)

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
            raise ValueError("update() needs params: the decay and the rule work on them")
        moved, state = step(rule, updates, state, params, lr=lr, decay=decay)
        return jax.tree.map(lambda new, old: new - old, moved, params), state

    return optax.GradientTransformationExtraArgs(init, update)


def _spread(value: Tree, structure: Any) -> list[Any]:
    if jax.tree_util.all_leaves([value]):
        return [value] * structure.num_leaves
    leaves: list[Any] = structure.flatten_up_to(value)
    return leaves
