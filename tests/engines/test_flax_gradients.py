"""Clipping against numpy and optax; what is not finite is found and cleared."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dlhpc.engines.flax_gradients import all_finite, cleared, clipper
from dlhpc.errors import ConfigError
from dlhpc.spec.gradients import AdaptiveClipping, GlobalNormClipping, NoClipping
from dlhpc.spec.model import CNNSpec
from dlhpc.weights.table import param_table
from tests.engines.flax_runs import after, controls, host_batch, learner_of, run_spec

TABLE = param_table(
    CNNSpec(channels=(4,), hidden_sizes=(5,), input_shape=(4, 4, 2), num_classes=3, normalization="layer")
)


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def random_arrays(seed: int, scale: float = 1.0) -> dict[str, Any]:
    draw = np.random.default_rng(seed)
    return {row.name: jnp.array(scale * draw.standard_normal(row.shape)) for row in TABLE}


@pytest.mark.parametrize("bound", [0.5, 1e6])
def test_the_joint_norm_is_bounded(bound: float) -> None:
    gradients, clip = random_arrays(0), clipper(GlobalNormClipping(max_norm=bound), TABLE)
    assert clip is not None
    clipped = clip(gradients, {})
    norm = np.sqrt(sum(np.square(array).sum() for array in gradients.values()))
    by_optax, _ = optax.clip_by_global_norm(bound).update(gradients, optax.EmptyState())
    for name, gradient in gradients.items():
        np.testing.assert_allclose(clipped[name], gradient * min(1.0, bound / (norm + 1e-6)), rtol=1e-14)
        np.testing.assert_allclose(clipped[name], by_optax[name], rtol=1e-6)


@pytest.mark.parametrize("factor", [0.01, 0.7, 1e6])
def test_every_units_norm_is_bounded_by_its_weights(factor: float) -> None:
    gradients, params = random_arrays(0), random_arrays(1, scale=0.1)
    params["dense_0/bias"] = jnp.zeros_like(params["dense_0/bias"])
    clip = clipper(AdaptiveClipping(factor=factor, eps=1e-3, exempt=()), TABLE)
    assert clip is not None
    clipped = clip(gradients, params)
    by_optax, _ = optax.adaptive_grad_clip(factor, 1e-3).update(gradients, optax.EmptyState(), params)
    for name, expected in by_optax.items():
        np.testing.assert_allclose(clipped[name], expected, rtol=1e-13)
    moved = [name for name in gradients if not np.array_equal(clipped[name], gradients[name])]
    assert (len(moved) == 0) == (factor == 1e6)


def test_a_unit_is_what_makes_one_output() -> None:
    gradients, params = random_arrays(0), random_arrays(1)
    clip = clipper(AdaptiveClipping(factor=1e-3, exempt=()), TABLE)
    assert clip is not None
    clipped = clip(gradients, params)
    for name, axes in {"conv_0/kernel": (0, 1, 2), "dense_0/kernel": (0,), "dense_norm_0/scale": (0,)}.items():
        norms, bounds = (np.sqrt(np.square(array[name]).sum(axes)) for array in (clipped, params))
        np.testing.assert_allclose(norms, 1e-3 * bounds, rtol=1e-12)


def test_exempt_parameters_are_left_alone() -> None:
    gradients, params = random_arrays(0), random_arrays(1)
    clip = clipper(AdaptiveClipping(factor=1e-3, exempt=("head/*", "*/bias")), TABLE)
    assert clip is not None
    clipped = clip(gradients, params)
    same = {name for name in gradients if np.array_equal(clipped[name], gradients[name])}
    assert same == {name for name in gradients if name.startswith("head/") or name.endswith("/bias")}


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"training\.clipping\.exempt: 'tail/\*' matches no parameter"):
        clipper(AdaptiveClipping(exempt=("head/*", "tail/*")), TABLE)


def test_no_clipping_does_nothing() -> None:
    assert clipper(NoClipping(), TABLE) is None


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_found_and_cleared(bad: float) -> None:
    gradients = random_arrays(0)
    assert bool(all_finite(gradients))
    spoiled = gradients | {"head/bias": gradients["head/bias"].at[1].set(bad)}
    assert not bool(all_finite(spoiled))
    clean = cleared(spoiled)
    np.testing.assert_array_equal(clean["head/bias"], gradients["head/bias"].at[1].set(0.0))
    np.testing.assert_array_equal(clean["dense_0/kernel"], gradients["dense_0/kernel"])


@pytest.mark.parametrize("parts", [1, 2])
def test_a_step_clips_the_gradient_of_the_whole_batch(parts: int) -> None:
    """Lion's momentum with b2 = 0 is the gradient that the rule was given."""

    def gradients(clipping: dict[str, Any]) -> dict[str, Any]:
        training = {"precision": "float64", "gradient_accumulation": parts, "clipping": clipping}
        state = after(
            run_spec(optimizer={"name": "lion", "b2": 0.0}, training=training), [(host_batch(padding=1), controls())]
        )
        return {name.removeprefix("slot/m/"): array for name, array in state.items() if name.startswith("slot/m/")}

    plain, clipped = gradients({"name": "none"}), gradients({"name": "global_norm", "max_norm": 0.01})
    norm = np.sqrt(sum(np.square(array).sum() for array in plain.values()))
    assert norm > 0.02
    for name, gradient in plain.items():
        np.testing.assert_allclose(clipped[name], gradient * 0.01 / (norm + 1e-6), rtol=1e-12)
    learner = learner_of(run_spec(training={"precision": "float64"}))
    weights = learner.snapshot(learner.init(0), "model")
    adaptive = gradients({"name": "adaptive", "factor": 0.001})
    np.testing.assert_array_equal(adaptive["head/kernel"], plain["head/kernel"])
    norms, bounds = (
        np.sqrt(np.square(array).sum(0)) for array in (adaptive["dense_0/kernel"], weights["dense_0/kernel"])
    )
    np.testing.assert_allclose(norms, 0.001 * bounds, rtol=1e-12)
