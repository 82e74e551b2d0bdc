"""Rules as machine code inside JAX programs: the rule's values and derivatives, in the donated memory."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlhpc.optimizers import flax_native, native
from dlhpc.optimizers.flax_optimizers import RuleOptimizer, build
from dlhpc.optimizers.rules import BoundRule, averaged, bind
from dlhpc.spec.optimizer import AdaBeliefSpec, AdamWSpec, AdanSpec, LionSpec, SophiaSpec

RULES = {
    "adamw": bind(AdamWSpec()),
    "lion": bind(LionSpec()),
    "adan": bind(AdanSpec()),
    "adabelief": bind(AdaBeliefSpec(rectify=True)),
    "sophia": bind(SophiaSpec()),
    "averaged": averaged(bind(AdanSpec(decay="no_prox")), 0.9),
    "slotless": BoundRule((), lambda ns, h: (h.lr,), lambda ns, g, slots, x, numbers: ((), x - numbers[0] * g)),
}


def trained(bound: BoundRule, *, with_native: bool, dtype: Any = "float32") -> Any:
    """Parameters and state after four steps in one scan, with a rate for each leaf."""
    optimizer = RuleOptimizer(bound, native=with_native)
    params = {
        "kernel": jnp.asarray(np.random.default_rng(0).standard_normal((100, 33)), dtype),
        "bias": jnp.asarray(np.random.default_rng(1).standard_normal(5), dtype),
        "scalar": jnp.ones((), dtype),
    }
    lr = {"kernel": 0.01, "bias": 0.001, "scalar": 0.0}

    def body(carry: Any, factor: Any) -> Any:
        params, state = carry
        grads = jax.tree.map(lambda x: jnp.sin(x * factor), params)
        hessian = None if bound.curvature is None else jax.tree.map(jnp.square, grads)
        return optimizer.step(grads, state, params, lr=lr, decay=0.1, hessian=hessian), None

    scan = jax.jit(lambda carry: jax.lax.scan(body, carry, jnp.arange(1.0, 5.0, dtype=dtype))[0], donate_argnums=0)
    return scan((params, optimizer.init(params)))


@pytest.mark.parametrize("name", RULES)
def test_machine_code_gives_the_rules_values(name: str) -> None:
    for ours, rules in zip(
        *(jax.tree.leaves(trained(RULES[name], with_native=on)) for on in (True, False)), strict=True
    ):
        np.testing.assert_allclose(ours, rules, rtol=2e-6, atol=2e-6)


def test_float64_too() -> None:
    with jax.enable_x64(True):
        both = [jax.tree.leaves(trained(RULES["adan"], with_native=on, dtype="float64")) for on in (True, False)]
        for ours, rules in zip(*both, strict=True):
            np.testing.assert_allclose(ours, rules, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("name", ["lion", "adan", "adabelief"])
def test_no_slot_is_copied(name: str) -> None:
    """XLA's own program copies what two of its loops read; the limit of 1 KB leaves room for the numbers."""

    def temporary_bytes(*, on: bool) -> int:
        optimizer, x = RuleOptimizer(RULES[name], native=on), jnp.zeros(100_000)

        def step(carry: Any, g: Any) -> Any:
            return optimizer.step(g, carry[1], carry[0], lr=0.1, decay=0.1)

        lowered = jax.jit(step, donate_argnums=0).lower((x, optimizer.init(x)), x)
        analysis: Any = lowered.compile().memory_analysis()
        return int(analysis.temp_size_in_bytes)

    assert temporary_bytes(on=True) < 1024
    assert temporary_bytes(on=False) >= 400_000


def test_without_donation_the_old_values_stay() -> None:
    optimizer, x = RuleOptimizer(RULES["lion"], native=True), jnp.ones(4)
    state = optimizer.init(x)
    moved, _ = jax.jit(lambda g, state, x: optimizer.step(g, state, x, lr=0.1, decay=0.0))(x, state, x)
    np.testing.assert_array_equal(x, np.ones(4))
    np.testing.assert_array_equal(state[1][0], np.zeros(4))
    np.testing.assert_allclose(moved, np.full(4, 0.9))


def test_an_update_can_be_differentiated_and_mapped() -> None:
    """For whoever learns learning rates, or trains several models at once."""
    x = jnp.array([0.5, -2.0, 1.0])

    def moved(lr: Any, *, on: bool, x: Any = x) -> Any:
        tx = build(AdamWSpec(), native=on)
        return tx.update(jnp.cos(x), tx.init(x), x, lr=lr)[0]

    ours, rules = (jax.jacfwd(lambda lr, on=on: moved(lr, on=on))(0.1) for on in (True, False))
    np.testing.assert_allclose(ours, rules, rtol=1e-6)
    many = jnp.stack([x, 2 * x])
    ours, rules = (jax.vmap(lambda x, on=on: moved(0.1, on=on, x=x))(many) for on in (True, False))
    np.testing.assert_allclose(ours, rules, rtol=1e-6)


def test_only_large_models_in_one_format_on_one_cpu_are_worthwhile() -> None:
    def shape(size: int, dtype: Any = jnp.float32) -> Any:
        return jax.eval_shape(lambda: jnp.zeros(size, dtype))

    assert flax_native.is_worthwhile([shape(flax_native.LARGE - 4), shape(4)])
    assert not flax_native.is_worthwhile([shape(flax_native.LARGE - 5), shape(4)])
    assert not flax_native.is_worthwhile([shape(flax_native.LARGE), shape(4, jnp.bfloat16)])
    assert not flax_native.is_worthwhile([shape(flax_native.LARGE, jnp.bfloat16)])


def test_without_a_compiler_the_rule_runs_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    flax_native._target.cache_clear()
    monkeypatch.setattr(native, "load", lambda *_: None)
    both = [jax.tree.leaves(trained(RULES["lion"], with_native=on)) for on in (True, False)]
    flax_native._target.cache_clear()
    for ours, rules in zip(*both, strict=True):
        np.testing.assert_array_equal(ours, rules)
