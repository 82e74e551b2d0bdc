"""Sophia's estimates against exact derivatives, on arrays that are whole and on arrays that are spread over devices."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dlhpc.optimizers.flax_estimators import gauss_newton_bartlett, hutchinson, sample_labels

ROWS, FEATURES, CLASSES = 7, 4, 3


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def problem() -> tuple[dict[str, Any], Any, Any]:
    """Parameters, inputs and labels of a softmax regression."""
    draw = np.random.default_rng(0)
    params = {"w": jnp.array(draw.standard_normal((FEATURES, CLASSES))), "b": jnp.array(draw.standard_normal(CLASSES))}
    labels = jnp.array(draw.integers(0, CLASSES, ROWS))
    return params, jnp.array(draw.standard_normal((ROWS, FEATURES))), labels


def logits(params: dict[str, Any], x: Any) -> Any:
    return jnp.tanh(x) @ params["w"] + params["b"]


def loss(params: dict[str, Any], x: Any, y: Any) -> Any:
    return optax.softmax_cross_entropy_with_integer_labels(logits(params, x), y).mean()


def test_hutchinson_is_the_probe_times_the_hessian_times_the_probe() -> None:
    params, x, y = problem()
    probes = optax.tree.random_like(jax.random.key(1), params)
    estimate = jax.jit(lambda params: hutchinson(lambda p: loss(p, x, y), params, probes))(params)
    flat, rebuilt = jax.flatten_util.ravel_pytree(params)
    exact = jax.jit(jax.hessian(lambda v: loss(rebuilt(v), x, y)))(flat)
    u, _ = jax.flatten_util.ravel_pytree(probes)
    found, _ = jax.flatten_util.ravel_pytree(estimate)
    np.testing.assert_allclose(found, u * (exact @ u), rtol=1e-12, atol=1e-15)


def test_hutchinson_gives_the_diagonal_in_expectation() -> None:
    params, x, y = problem()
    keys = jax.random.split(jax.random.key(2), 20_000)
    estimates = jax.vmap(
        lambda key: hutchinson(lambda p: loss(p, x, y), params, optax.tree.random_like(key, params))["w"]
    )(keys)
    exact = jax.hessian(lambda w: loss({**params, "w": w}, x, y))(params["w"])
    diagonal = jnp.einsum("ijij->ij", exact)
    error = jnp.abs(estimates.mean(0) - diagonal) / (estimates.std(0) / np.sqrt(len(keys)))
    assert float(error.max()) < 4.5
    assert float((estimates.std(0) / np.sqrt(len(keys)) / diagonal).max()) < 0.05, "the test would show nothing"


def test_gauss_newton_bartlett_is_its_definition() -> None:
    params, x, _ = problem()
    noise = np.random.default_rng(3).gumbel(size=(ROWS, CLASSES))
    real = np.arange(ROWS) < 5
    estimate = gauss_newton_bartlett(lambda p: logits(p, x), params, jnp.array(noise), real=jnp.array(real))
    features, scores = np.tanh(np.asarray(x))[real], np.asarray(logits(params, x))[real]
    p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    residual = p - np.eye(CLASSES)[(scores + noise[real]).argmax(1)]
    np.testing.assert_allclose(estimate["w"], 5 * (features.T @ residual / 5) ** 2, rtol=1e-12)
    np.testing.assert_allclose(estimate["b"], 5 * residual.mean(0) ** 2, rtol=1e-12)


def test_gauss_newton_bartlett_gives_the_diagonal_in_expectation() -> None:
    """Of the Gauss-Newton matrix, which of a softmax regression is the Hessian."""
    params, x, y = problem()
    keys = jax.random.split(jax.random.key(4), 20_000)
    estimates = jax.vmap(
        lambda key: gauss_newton_bartlett(lambda p: logits(p, x), params, jax.random.gumbel(key, (ROWS, CLASSES)))["w"]
    )(keys)
    exact = jnp.einsum("ijij->ij", jax.hessian(lambda w: loss({**params, "w": w}, x, y))(params["w"]))
    error = jnp.abs(estimates.mean(0) - exact) / (estimates.std(0) / np.sqrt(len(keys)))
    assert float(error.max()) < 4.5


def test_labels_are_drawn_from_the_softmax() -> None:
    scores = jnp.array([[0.0, 1.0, -2.0]])
    noise = jax.random.gumbel(jax.random.key(5), (40_000, 3))
    drawn = np.bincount(np.asarray(sample_labels(scores, noise)), minlength=3) / 40_000
    np.testing.assert_allclose(drawn, jax.nn.softmax(scores)[0], atol=0.01)


ON_A_MESH = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from dlhpc.optimizers.flax_estimators import gauss_newton_bartlett, hutchinson
mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
draw = np.random.default_rng(0)
w, x, noise = draw.standard_normal((3, 5)), draw.standard_normal((8, 3)), draw.gumbel(size=(8, 5))
gnb = jax.jit(lambda w, x, noise: gauss_newton_bartlett(lambda w: x @ w, w, noise))
probed = jax.jit(lambda w, x, u: hutchinson(lambda w: jax.nn.logsumexp(x @ w, axis=1).mean(), w, u))
rows = NamedSharding(mesh, PartitionSpec("data"))
spread = [jax.device_put(array, rows) for array in (x, noise)]
assert len(spread[0].sharding.device_set) == 4
np.testing.assert_allclose(gnb(w, *spread), gnb(w, x, noise), rtol=1e-12)
np.testing.assert_allclose(probed(w, spread[0], w), probed(w, x, w), rtol=1e-12)
"""


def test_a_batch_on_a_mesh_is_one_batch() -> None:
    flags = {"JAX_ENABLE_X64": "1", "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    subprocess.run([sys.executable, "-c", ON_A_MESH], env=os.environ | flags, check=True, timeout=120)
