"""Each rule, run by numpy, JAX and torch, follows a float64 reference written from the paper."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import optax
import pytest
import torch

from dlhpc.optimizers import flax_optimizers, torch_optimizers
from dlhpc.optimizers.rules import Scalars, bind
from dlhpc.spec.optimizer import AdamWSpec, LionSpec, OptimizerSpec
from tests.reference.optimizers import trajectory

Vector = npt.NDArray[np.float64]
Gradient = Callable[[Vector, int], Vector]
Run = Callable[[OptimizerSpec, Vector, Gradient, list[float]], list[Vector]]

STEPS = 120
RATES = [0.01 * (1.0 + np.cos(np.pi * step / STEPS)) for step in range(STEPS)]
SPECS: list[OptimizerSpec] = [
    AdamWSpec(weight_decay=0.1),
    AdamWSpec(b1=0.0, b2=0.5, eps=1e-3, weight_decay=0.0),
    LionSpec(weight_decay=0.1),
    LionSpec(b1=0.5, b2=0.7, weight_decay=0.0),
]


def start() -> Vector:
    return np.random.default_rng(0).standard_normal(40)


def gradient(theta: Vector, t: int) -> Vector:
    """Of a badly scaled bowl, with noise that depends on t alone; some components are exactly zero."""
    scale = np.logspace(-4, 3, theta.size)
    noisy = scale * (theta - 0.3) + 0.1 * np.random.default_rng(t).standard_normal(theta.size)
    return np.where(np.arange(theta.size) % 10 == 0, 0.0, noisy)


def by_numpy(spec: OptimizerSpec, theta: Vector, gradient: Gradient, rates: list[float]) -> list[Vector]:
    bound, path = bind(spec), []
    slots = tuple(np.zeros_like(theta) for _ in bound.slots)
    for t, rate in enumerate(rates, start=1):
        slots, theta = bound.rule(np, gradient(theta, t), slots, theta, Scalars(rate, spec.weight_decay, t))
        path.append(theta)
    return path


def by_jax_step(spec: OptimizerSpec, theta: Vector, gradient: Gradient, rates: list[float]) -> list[Vector]:
    with jax.enable_x64(True):
        optimizer, path = flax_optimizers.RuleOptimizer(bind(spec)), []
        step = jax.jit(lambda g, state, x, rate: optimizer.step(g, state, x, lr=rate, decay=spec.weight_decay))
        params, state = jnp.array(theta), optimizer.init(jnp.array(theta))
        for t, rate in enumerate(rates, start=1):
            params, state = step(jnp.array(gradient(np.array(params), t)), state, params, rate)
            path.append(np.array(params))
        return path


def by_optax(spec: OptimizerSpec, theta: Vector, gradient: Gradient, rates: list[float]) -> list[Vector]:
    with jax.enable_x64(True):
        tx, path = flax_optimizers.build(spec), []
        params = jnp.array(theta)
        state = tx.init(params)
        update = jax.jit(lambda g, state, x, rate: tx.update(g, state, x, lr=rate))
        for t, rate in enumerate(rates, start=1):
            updates, state = update(jnp.array(gradient(np.array(params), t)), state, params, rate)
            params = optax.apply_updates(params, updates)
            path.append(np.array(params))
        return path


def by_torch(spec: OptimizerSpec, theta: Vector, gradient: Gradient, rates: list[float]) -> list[Vector]:
    parameter, path = torch.nn.Parameter(torch.tensor(theta)), []
    optimizer = torch_optimizers.build([parameter], spec)
    for t, rate in enumerate(rates, start=1):
        optimizer.param_groups[0]["lr"] = rate
        parameter.grad = torch.tensor(gradient(parameter.detach().numpy(), t))
        optimizer.step()
        path.append(parameter.detach().numpy().copy())
    return path


@pytest.mark.parametrize("run", [by_numpy, by_jax_step, by_optax, by_torch])
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.name}-{spec.b1}")
def test_trajectory_follows_the_paper(spec: OptimizerSpec, run: Run) -> None:
    expected = list(trajectory(spec, start(), gradient, RATES))
    path = run(spec, start(), gradient, RATES)
    assert len(path) == STEPS
    for here, there in zip(path, expected, strict=True):
        assert np.max(np.abs(here - there)) <= 1e-11 * np.max(np.abs(there))
    assert np.max(np.abs(expected[-1] - start())) > 0.1


def test_lion_leaves_a_parameter_without_gradient_alone() -> None:
    spec = LionSpec(weight_decay=0.0)
    for run in (by_numpy, by_jax_step, by_torch):
        path = run(spec, start(), lambda theta, t: np.zeros_like(theta), RATES[:3])
        np.testing.assert_array_equal(path[-1], start())


def test_float32_in_jax_stays_with_float64() -> None:
    """AdamW's bias corrections, computed naively in float32, would be off by 1e-5 of the step for hundreds of steps."""
    optimizer = flax_optimizers.RuleOptimizer(bind(AdamWSpec(weight_decay=0.0)))
    ones = jnp.ones(1, jnp.float32)
    moved, _ = jax.jit(lambda state: optimizer.step(ones, state, jnp.zeros(1), lr=1.0, decay=0.0))(optimizer.init(ones))
    assert float(moved[0]) == pytest.approx(-1.0, rel=1e-6)
