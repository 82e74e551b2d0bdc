"""NaN policy and averaged weights in the Flax learner, and every option together across an interruption."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from dlhpc.data.batch import HostBatch
from dlhpc.engines.flax_learner import FlaxLearner
from dlhpc.engines.flax_update import Outcome, Update
from dlhpc.ports import Controls, NamedArrays
from dlhpc.spec.run import RunSpec
from dlhpc.weights.table import param_table
from tests.engines.flax_runs import after, assert_close, controls, host_batch, learner_of, run_spec

Work = list[tuple[HostBatch, Controls]]
SOPHIA = {"name": "sophia", "interval": 3, "b2": 0.5}


def float_batch(steps: int = 1, start: int = 0, bad: tuple[int, ...] = ()) -> HostBatch:
    """Images in 0..1, NaN in one pixel of the steps `bad`."""
    batch = host_batch(steps, start)
    inputs = (batch.inputs / 255.0).astype(np.float32)
    for step in bad:
        if start <= step < start + steps:
            inputs[step - start, 0, 1, 2, 0] = np.nan
    return HostBatch(inputs, batch.labels, batch.counts)


def work(*numbers: int, bad: tuple[int, ...] = ()) -> Work:
    return [(float_batch(1, step, bad), controls(start=step)) for step in numbers]


def policy_run(policy: str, **changes: Any) -> RunSpec:
    training = {"non_finite_gradients": policy, "precision": "float64", **changes.pop("training", {})}
    return run_spec(training=training, **changes)


def params_of(state: NamedArrays) -> dict[str, Any]:
    return {name: array for name, array in state.items() if not name.startswith("counter/")}


@pytest.mark.parametrize("optimizer", [{"name": "adamw"}, SOPHIA, {**SOPHIA, "estimator": "hutchinson"}])
@pytest.mark.parametrize("average", [None, 0.9])
def test_a_skipped_step_never_happened_but_for_its_batch(optimizer: dict[str, Any], average: float | None) -> None:
    run = policy_run("skip", optimizer=optimizer, training={"ema_decay": average})
    skipped, without = after(run, work(0, 1, 2, 3, bad=(0, 2))), after(run, work(1, 3))
    assert all(np.array_equal(array, params_of(without)[name]) for name, array in params_of(skipped).items())
    assert (int(skipped["counter/consumed"]), int(skipped["counter/applied"])) == (4, 2)
    assert np.any(skipped["slot/m/head/bias"])


@pytest.mark.parametrize("policy", ["skip", "zero"])
def test_non_finite_steps_are_counted(policy: str) -> None:
    run = policy_run(policy, training={"gradient_accumulation": 2})
    learner = learner_of(run)
    batch = learner.place(float_batch(4, bad=(1, 2)))
    state, metrics = learner.steps(learner.init(0), batch, controls(4))
    np.testing.assert_array_equal(metrics["non_finite"], [0, 1, 1, 0])
    np.testing.assert_array_equal(np.isnan(metrics["loss"]), [False, True, True, False])
    assert all(np.isfinite(array).all() for array in learner.snapshot(state, "training").values())


def test_zeroed_gradients_still_make_a_step() -> None:
    run = policy_run("zero", optimizer={"name": "lion", "b2": 0.0})
    state = after(run, work(0, bad=(0,)))
    assert int(state["counter/applied"]) == 1
    assert not np.any(state["slot/m/dense_0/kernel"])


def test_raise_adds_no_metric_and_lets_the_nan_through() -> None:
    learner = learner_of(policy_run("raise"))
    state, metrics = learner.steps(learner.init(0), learner.place(float_batch(bad=(0,))), controls())
    assert set(metrics) == {"loss", "correct", "count"}
    assert np.isnan(learner.snapshot(state, "model")["head/kernel"]).any()


def update_once(policy: str, gradients: dict[str, Any], estimate: dict[str, Any]) -> tuple[dict[str, Any], Outcome]:
    """Sophia's first update, from ones."""
    run = policy_run(policy, optimizer={"name": "sophia", "b2": 0.0}, training={"precision": "float32"})
    update = Update(run, param_table(run.model))
    params = {row.name: jnp.ones(row.shape) for row in param_table(run.model)}
    full = [{name: jnp.ones_like(array) for name, array in params.items()} | given for given in (gradients, estimate)]
    state = update.optimizer.init(params)
    return params, update(params, state, full[0], learning_rate=jnp.float32(0.1), estimate=lambda: full[1])


@pytest.mark.parametrize("source", ["gradients", "estimate"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_one_element_is_enough(source: str, bad: float) -> None:
    spoiled = {"head/bias": jnp.array([1.0, bad, 1.0])}
    given: tuple[dict[str, Any], dict[str, Any]] = (spoiled, {}) if source == "gradients" else ({}, spoiled)
    params, skipped = update_once("skip", *given)
    assert int(skipped.metrics["non_finite"]) == 1
    assert int(skipped.optimizer[0]) == 0
    assert not any(np.any(array) for slot in skipped.optimizer[1] for array in slot.values())
    assert all(np.array_equal(array, params[name]) for name, array in skipped.params.items())
    _, zeroed = update_once("zero", *given)
    m, h = (slot["head/bias"] for slot in zeroed.optimizer[1])
    assert int(zeroed.metrics["non_finite"]) == 1
    np.testing.assert_array_equal(np.asarray(m if source == "gradients" else h) == 0, [False, True, False])
    assert int(update_once("zero", {}, {})[1].metrics["non_finite"]) == 0


def test_averaged_weights_follow_a_plain_loop() -> None:
    decay = 0.9
    run, plain = (run_spec(training={"precision": "float64", "ema_decay": value}) for value in (decay, None))
    learner, other = learner_of(run), learner_of(plain)
    state, reference = learner.init(0), other.init(0)
    weights: list[NamedArrays] = []
    for batch, control in work(0, 1, 2, 3, 4):
        state, _ = learner.steps(state, learner.place(batch), control)
        reference, _ = other.steps(reference, other.place(batch), control)
        weights.append(other.snapshot(reference, "model"))
        shares = decay ** np.arange(len(weights))[::-1]
        for name, array in learner.snapshot(state, "model").items():
            expected = sum(s * w[name] for s, w in zip(shares, weights, strict=True)) / shares.sum()
            np.testing.assert_allclose(array, expected, rtol=1e-12, atol=1e-15)
    training = learner.snapshot(state, "training")
    assert all(np.array_equal(training[f"param/{name}"], array) for name, array in weights[-1].items())
    model = learner.snapshot(state, "model")
    assert all(np.array_equal(training[f"slot/ema/{name}"], array) for name, array in model.items())
    assert not np.array_equal(model["head/kernel"], weights[-1]["head/kernel"])


def test_the_average_is_evaluated_once_there_is_one() -> None:
    run = run_spec(training={"precision": "float64", "ema_decay": 0.9})
    learner, plain = learner_of(run), learner_of(run_spec(training={"precision": "float64"}))
    state = learner.init(0)
    first = learner.snapshot(state, "model")
    assert all(np.array_equal(array, plain.snapshot(plain.init(0), "model")[name]) for name, array in first.items())
    held_out = learner.place(host_batch(start=100))
    assert float(learner.evaluate(state, held_out)["loss_sum"]) == float(
        plain.evaluate(plain.init(0), held_out)["loss_sum"]
    )
    for batch, control in work(0, 1, 2):
        state, _ = learner.steps(state, learner.place(batch), control)
    published = {f"param/{name}": array for name, array in learner.snapshot(state, "model").items()}
    state_of_published = plain.restore({**plain.snapshot(plain.init(0), "training"), **published})
    assert float(learner.evaluate(state, held_out)["loss_sum"]) == float(
        plain.evaluate(state_of_published, held_out)["loss_sum"]
    )


EVERYTHING = {
    "non_finite_gradients": "skip",
    "clipping": {"name": "adaptive", "factor": 0.5},
    "ema_decay": 0.8,
    "gradient_accumulation": 2,
    "label_smoothing": 0.1,
}


def everything(estimator: str, **training: Any) -> RunSpec:
    return run_spec(optimizer={**SOPHIA, "estimator": estimator}, training=EVERYTHING | training)


@pytest.mark.parametrize("estimator", ["gnb", "hutchinson"])
def test_everything_goes_on_bit_for_bit_after_an_interruption(estimator: str) -> None:
    run, numbers = everything(estimator), range(8)
    learner = learner_of(run)
    half = after(run, work(*numbers[:5], bad=(3,)))
    state = learner.restore(half)
    for batch, control in work(*numbers[5:]):
        state, _ = learner.steps(state, learner.place(batch), control)
    whole = after(run, work(*numbers, bad=(3,)))
    assert all(np.array_equal(array, whole[name]) for name, array in learner.snapshot(state, "training").items())
    assert {name.split("/")[1] for name in half if name.startswith("slot/")} == {"m", "h", "ema"}


@pytest.mark.parametrize("estimator", ["gnb", "hutchinson"])
def test_everything_in_one_dispatch_equals_single_steps_within_rounding(estimator: str) -> None:
    run = everything(estimator, precision="float64")
    single = after(run, work(*range(8), bad=(3,)))
    together = after(run, [(float_batch(4, start, bad=(3,)), controls(4, start)) for start in (0, 4)])
    assert_close(together, single, 1e-9)
    assert int(together["counter/applied"]) == int(single["counter/applied"]) == 7


def test_no_option_ever_recompiles() -> None:
    learner = FlaxLearner(everything("gnb"))
    state = learner.init(0)
    for batch, control in work(*range(5), bad=(1,)):
        state, _ = learner.steps(state, learner.place(batch), control)
        learner.evaluate(state, learner.place(batch))
    assert learner._steps._cache_size() == learner._evaluate._cache_size() == 1
