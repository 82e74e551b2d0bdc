"""The shared rules over JAX pytrees (their trajectories are in tests/twins/test_optimizers.py)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dlhpc.optimizers.flax_optimizers import RuleOptimizer, build
from dlhpc.optimizers.rules import bind
from dlhpc.spec.optimizer import AdamWSpec, LionSpec

PARAMS = {"a": jnp.array([1.0, -2.0]), "b": {"c": jnp.array(3.0)}}
GRADS = {"a": jnp.array([0.5, 0.0]), "b": {"c": jnp.array(-4.0)}}


def moved(spec: Any, **options: Any) -> Any:
    tx = build(spec)
    updates, _ = tx.update(GRADS, tx.init(PARAMS), PARAMS, **options)
    return optax.apply_updates(PARAMS, updates)


def test_lion_moves_by_the_sign_and_decays() -> None:
    new = moved(LionSpec(weight_decay=0.5), lr=0.1)
    np.testing.assert_allclose(new["a"], [1.0 - 0.1 - 0.05, -2.0 + 0.1], rtol=1e-6)
    np.testing.assert_allclose(new["b"]["c"], 3.0 + 0.1 - 0.15, rtol=1e-6)


def test_rates_and_decays_may_differ_by_leaf() -> None:
    rates = {"a": 0.1, "b": {"c": 0.0}}
    new = moved(LionSpec(), lr=rates, decay={"a": 0.0, "b": {"c": 9.0}})
    np.testing.assert_allclose(new["a"], [0.9, -2.0], rtol=1e-6)
    assert float(new["b"]["c"]) == 3.0


def test_a_tree_of_rates_has_the_parameters_structure() -> None:
    with pytest.raises(ValueError, match=r"(?i)key"):
        moved(LionSpec(), lr={"a": 0.1, "x": 0.1})


def test_an_update_needs_the_parameters() -> None:
    tx = build(AdamWSpec())
    with pytest.raises(ValueError, match="needs params"):
        tx.update(GRADS, tx.init(PARAMS), None, lr=0.1)


def test_the_state_counts_updates_and_holds_every_slot() -> None:
    tx = build(AdamWSpec())
    state = tx.init(PARAMS)
    for _ in range(3):
        _, state = tx.update(GRADS, state, PARAMS, lr=0.1)
    applied, slots = state
    assert int(applied) == 3
    assert [jax.tree.structure(slot) for slot in slots] == [jax.tree.structure(PARAMS)] * 2


def test_it_chains_with_optax() -> None:
    tx = optax.chain(optax.clip_by_global_norm(1e-3), build(AdamWSpec(weight_decay=0.0)))
    updates, _ = tx.update(GRADS, tx.init(PARAMS), PARAMS, lr=0.1)
    np.testing.assert_allclose(updates["b"]["c"], 0.1, rtol=1e-3)


def test_slots_do_not_share_memory_so_that_they_can_be_donated() -> None:
    optimizer = RuleOptimizer(bind(AdamWSpec()))
    state = optimizer.init(PARAMS)
    step = jax.jit(lambda state, params: optimizer.step(GRADS, state, params, lr=0.1, decay=0.0), donate_argnums=0)
    _, state = step(state, PARAMS)
    assert float(state[1][0]["b"]["c"]) == pytest.approx(-0.4)
