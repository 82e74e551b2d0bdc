"""Sophia's estimates in the Flax learner: over the whole batch, from numpy's draws, when they are due.

With b2 = 0 the slot h is the last estimate itself.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlhpc import draws
from dlhpc.draws import NUMPY, PROBES, SAMPLED_LABELS
from dlhpc.engines.flax_network import forward_function, loss_sum, numbers
from dlhpc.ports import NamedArrays, Preprocessing
from dlhpc.spec.run import RunSpec
from tests.engines.flax_runs import ROWS, after, controls, host_batch, learner_of, run_spec

STEP = 5
ESTIMATORS = ["gnb", "hutchinson"]


def sophia(estimator: str, *, b2: float = 0.0, interval: int = 1, **changes: Any) -> RunSpec:
    training = {"precision": "float64", "label_smoothing": 0.1, **changes.pop("training", {})}
    optimizer = {"name": "sophia", "estimator": estimator, "b2": b2, "interval": interval}
    model = {"activation": "silu"} | changes.pop("model", {})
    return run_spec(seed=9, optimizer=optimizer, training=training, model=model, **changes)


def start(run: RunSpec) -> NamedArrays:
    learner = learner_of(run)
    return learner.snapshot(learner.init(run.seed), "model")


def averages(state: NamedArrays) -> dict[str, Any]:
    return {name.removeprefix("slot/h/"): array for name, array in state.items() if name.startswith("slot/h/")}


@pytest.mark.parametrize("parts", [1, 2])
def test_gnb_of_a_softmax_regression_is_its_definition(parts: int) -> None:
    run = sophia("gnb", model={"hidden_sizes": (), "dropout_rate": 0.0}, training={"gradient_accumulation": parts})
    batch, weights = host_batch(padding=3), start(run)
    x = ((batch.inputs[0] / 255.0 - run.data.mean[0]) / run.data.std[0]).reshape(ROWS, -1)
    scores = x @ weights["head/kernel"] + weights["head/bias"]
    rows, classes = np.arange(ROWS)[:, None], np.arange(3)[None, :]
    noise = draws.gumbel(NUMPY, np, np.float64, 9, STEP, SAMPLED_LABELS, rows, classes)
    p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    residual = (p - np.eye(3)[(scores + noise).argmax(1)])[: ROWS - 3]
    found = averages(after(run, [(batch, controls(start=STEP, dropout=0.0))]))
    count = ROWS - 3
    np.testing.assert_allclose(found["head/kernel"], count * (x[:count].T @ residual / count) ** 2, rtol=1e-11)
    np.testing.assert_allclose(found["head/bias"], count * residual.mean(0) ** 2, rtol=1e-11)


@pytest.mark.parametrize("parts", [1, 2])
def test_hutchinson_is_the_probe_times_the_hessian_times_the_probe(parts: int) -> None:
    """Of the smoothed loss without dropout; probes are numbered in the table's order."""
    run = sophia("hutchinson", training={"gradient_accumulation": parts})
    batch, weights = host_batch(padding=3), start(run)
    found = averages(after(run, [(batch, controls(start=STEP))]))
    probes = {
        name: draws.normal(NUMPY, np, np.float64, 9, STEP, PROBES + index, np.arange(array.size)).reshape(array.shape)
        for index, (name, array) in enumerate(weights.items())
    }
    with jax.enable_x64(True):
        forward = forward_function(run.model, Preprocessing(run.data.mean, run.data.std), numbers("float64"))

        def objective(flat: jax.Array) -> jax.Array:
            logits = forward(rebuilt(flat), jnp.array(batch.inputs[0]), None)
            return loss_sum(logits, jnp.array(batch.labels[0]), 0.1) / (ROWS - 3)

        flat, rebuilt = jax.flatten_util.ravel_pytree({name: jnp.array(array) for name, array in weights.items()})
        u, _ = jax.flatten_util.ravel_pytree(probes)
        expected = rebuilt(u * (jax.jit(jax.hessian(objective))(flat) @ u))
    for name, array in found.items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-10, atol=1e-13)
        assert np.any(array)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_rows_are_numbered_in_the_global_batch_and_dropout_is_off(estimator: str) -> None:
    """GNB's labels depend on the first row's number, Hutchinson's probes do not; neither on the dropout rate."""
    run, batch = sophia(estimator), host_batch()
    plain = averages(after(run, [(batch, controls())]))["head/kernel"]
    without = averages(after(run, [(batch, controls(dropout=0.0))]))["head/kernel"]
    np.testing.assert_array_equal(plain, without)
    moved = type(batch)(batch.inputs, batch.labels, batch.counts, first_row=1000)
    elsewhere = averages(after(run, [(moved, controls())]))["head/kernel"]
    assert np.array_equal(plain, elsewhere) == (estimator == "hutchinson")


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_seed_and_step_change_the_draws(estimator: str) -> None:
    run = sophia(estimator)
    learner = learner_of(run)
    one, later = (
        averages(after(run, [(host_batch(), controls(start=step))]))["head/kernel"] for step in (0, 2**32 - 1)
    )
    assert not np.array_equal(one, later)
    other = run.model_copy(update={"seed": 10})
    state = learner_of(other).restore(learner.snapshot(learner.init(9), "training"))
    state, _ = learner_of(other).steps(state, learner.place(host_batch()), controls())
    assert not np.array_equal(averages(learner.snapshot(state, "training"))["head/kernel"], one)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("k", [1, 4])
def test_estimates_come_before_updates_1_and_then_every_interval(estimator: str, k: int) -> None:
    run = sophia(estimator, b2=0.5, interval=4)
    learner = learner_of(run)
    state, seen = learner.init(run.seed), []
    for start_step in range(0, 8, k):
        batch, control = host_batch(k, start_step), controls(k, start_step)
        state, _ = learner.steps(state, learner.place(batch), control)
        seen.append(averages(learner.snapshot(state, "training"))["head/kernel"])
    if k == 4:
        first, second = seen
        np.testing.assert_allclose(after(run, [(host_batch(), controls())])["slot/h/head/kernel"], first, rtol=1e-12)
        assert not np.array_equal(first, second)
        return
    changes = [index for index in range(1, 8) if not np.array_equal(seen[index], seen[index - 1])]
    assert np.any(seen[0])
    assert changes == [4]


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_an_estimate_moves_the_very_step_it_comes_before(estimator: str) -> None:
    """x - lr clip(m / max(gamma h, eps), 1), with the new h; a bias does not decay."""
    run = sophia(estimator)
    before, state = start(run), after(run, [(host_batch(), controls(rate=0.01))])
    gamma = {"gnb": 0.05, "hutchinson": 0.01}[estimator]
    m, h = state["slot/m/head/bias"], state["slot/h/head/bias"]
    expected = before["head/bias"] - 0.01 * np.clip(m / np.maximum(gamma * h, 1e-12), -1, 1)
    np.testing.assert_allclose(state["param/head/bias"], expected, rtol=1e-13)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_estimates_in_lower_precision_stay_near(estimator: str, precision: str) -> None:
    work = [(host_batch(), controls())]
    wide, narrow = (
        averages(after(sophia(estimator, training={"precision": name}), work))["head/bias"]
        for name in ("float64", precision)
    )
    assert narrow.dtype == np.float32
    np.testing.assert_allclose(narrow, wide, rtol=1e-4 if precision == "float32" else 0.2, atol=1e-3)
