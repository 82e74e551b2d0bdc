"""The shared rules on JAX pytrees: as one exact step for the learner, and as an optax transformation.

tx = build(LionSpec())
updates, state = tx.update(grads, state, params, lr=1e-4)
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from dlhpc.optimizers import flax_native
from dlhpc.optimizers.rules import BoundRule, Coefficients, Scalars, bind
from dlhpc.spec.optimizer import OptimizerSpec

Tree = Any
"""A pytree of arrays, of one structure throughout: parameters, gradients, a slot."""
OptimizerState = tuple[jax.Array, tuple[Tree, ...]]
"""Updates made so far (int32), and for each slot of the rule a tree of the parameters' structure."""


class RuleOptimizer:
    """One bound rule over all leaves of a pytree."""

    def __init__(self, bound: BoundRule, *, native: bool | None = None) -> None:
        """`native` runs the rule as machine code (on a CPU); None does where the leaves are large enough to pay."""
        self.bound = bound
        self._native = native

    def init(self, params: Tree) -> OptimizerState:
        """No update made, slots zero."""
        return jnp.zeros((), jnp.int32), tuple(jax.tree.map(jnp.zeros_like, params) for _ in self.bound.slots)

    def step(
        self,
        grads: Tree,
        state: OptimizerState,
        params: Tree,
        *,
        lr: Tree,
        decay: Tree,
        hessian: Tree | None = None,
    ) -> tuple[Tree, OptimizerState]:
        """Parameters and state after one update; `lr` and `decay` are scalars, or trees of them like the parameters.

        `hessian`, an estimate of the Hessian's diagonal like the parameters, is averaged in before anything moves.
        A compiled function that is given the old ones to reuse (donate_argnums) should take params before state, as
        it returns them: JAX pairs buffers of one shape by their order, and copies where the pairs are wrong.
        """
        structure: Any = jax.tree.structure(params)
        applied, slots = state[0] + 1, state[1] if hessian is None else self.fold(state[1], hessian)
        xs, gs = jax.tree.leaves(params), structure.flatten_up_to(grads)
        columns = zip(*map(structure.flatten_up_to, slots), strict=True) if slots else [() for _ in xs]
        rates = zip(_spread(lr, structure), _spread(decay, structure), strict=True)
        numbers = [
            self.bound.coefficients(jnp, Scalars(rate, factor, applied.astype(x.dtype)))
            for x, (rate, factor) in zip(xs, rates, strict=True)
        ]
        new_xs, rows = self._move(xs, gs, list(columns), numbers)
        new_slots = zip(*rows, strict=True) if slots else ()
        return structure.unflatten(new_xs), (applied, tuple(map(structure.unflatten, new_slots)))

    def _move(
        self, xs: list[Any], gs: list[Any], slots: list[Any], numbers: list[Coefficients]
    ) -> tuple[list[Any], list[Any]]:
        if self._native or (self._native is None and flax_native.is_worthwhile(xs)):
            table = jnp.stack([jnp.stack([jnp.asarray(n, xs[0].dtype) for n in row]) for row in numbers])
            moved = flax_native.update(self.bound, xs, gs, slots, table)
            if moved is not None:
                return moved
        pairs = [
            self.bound.move(jnp, g, tuple(own), x, row) for g, own, x, row in zip(gs, slots, xs, numbers, strict=True)
        ]
        return [x for _, x in pairs], [own for own, _ in pairs]

    def fold(self, slots: tuple[Tree, ...], hessian: Tree) -> tuple[Tree, ...]:
        """The slots with an estimate averaged in. Raises ValueError for a rule that takes none."""
        curvature = self.bound.curvature
        if curvature is None:
            raise ValueError("this optimizer takes no Hessian estimates; sophia does")
        index = self.bound.slots.index(curvature.slot)
        return *slots[:index], jax.tree.map(curvature.fold, slots[index], hessian), *slots[index + 1 :]


def build(spec: OptimizerSpec, *, native: bool | None = None) -> optax.GradientTransformationExtraArgs:
    """The rule for any optax user: `update(grads, state, params, lr=..., decay=..., hessian=...)`.

    `lr` and `decay` are numbers, arrays, or trees of them like the parameters; `decay` is the spec's weight_decay for
    every leaf when absent. `hessian` is Sophia's estimate of the Hessian's diagonal, given every `spec.interval`
    updates. Applying an update adds the rounding of x + (x' - x) to the rule's own x'.
    """
    optimizer = RuleOptimizer(bind(spec), native=native)

    def update(
        updates: optax.Updates,
        state: OptimizerState,
        params: optax.Params | None = None,
        *,
        lr: Tree,
        decay: Tree = spec.weight_decay,
        hessian: Tree | None = None,
        **_: Any,
    ) -> tuple[optax.Updates, OptimizerState]:
        if params is None:
            raise ValueError("update() needs params: the rule decays and moves them")
        moved, state = optimizer.step(updates, state, params, lr=lr, decay=decay, hessian=hessian)
        return jax.tree.map(jnp.subtract, moved, params), state

    return optax.GradientTransformationExtraArgs(optimizer.init, update)


def _spread(value: Tree, structure: Any) -> list[Any]:
    if jax.tree_util.all_leaves([value]):
        return [value] * structure.num_leaves
    leaves: list[Any] = structure.flatten_up_to(value)
    return leaves
