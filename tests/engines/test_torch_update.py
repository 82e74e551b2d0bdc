"""The end of a step, on every engine: policies, averaged weights, and that each option does what it says."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest

from dlhpc.data.batch import HostBatch
from dlhpc.ports import NamedArrays
from dlhpc.spec.run import RunSpec
from tests.engines.torch_options import ENGINES, opened, small_batch, small_controls, small_run, train

STATE = ("param/", "slot/")


def poisoned(run: RunSpec, steps: int, bad: int) -> HostBatch:
    """A dispatch in whose step `bad` a pixel is NaN."""
    batch = small_batch(run, steps)
    inputs = batch.inputs.copy()
    inputs[bad, 0, 0, 0, 0] = np.nan
    return replace(batch, inputs=inputs)


def without(batch: HostBatch, step: int) -> HostBatch:
    """The dispatch without one of its steps."""
    parts = (np.delete(array, step, axis=0) for array in (batch.inputs, batch.labels, batch.counts))
    return HostBatch(*parts)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("optimizer", ["adan", "gnb"])
def test_skip_is_as_if_the_step_had_not_been(engine: str, optimizer: str) -> None:
    """Step 0 is due for an estimate: its average does not move either, and the next step makes one."""
    run = small_run(optimizer, "global", non_finite_gradients="skip", ema_decay=0.9, gradient_accumulation=2)
    with opened(engine) as make:
        learner = make(run)
        for bad in (0, 2):
            batch, controls = poisoned(run, 4, bad), small_controls(4)
            state, metrics = learner.steps(learner.init(0), learner.place(batch), controls)
            assert np.asarray(metrics["non_finite"]).tolist() == [int(step == bad) for step in range(4)]
            assert np.isnan(np.asarray(metrics["loss"])).tolist() == [step == bad for step in range(4)]
            end = learner.snapshot(state, "training")
            assert (int(end["counter/consumed"]), int(end["counter/applied"])) == (4, 3)
            fields = (np.delete(getattr(controls, name), bad) for name in ("learning_rate", "step", "dropout_rate"))
            shorter = type(controls)(*fields)
            state, _ = learner.steps(learner.init(0), learner.place(without(batch, bad)), shorter)
            expected = learner.snapshot(state, "training")
            assert all(np.array_equal(end[name], expected[name]) for name in end if name.startswith(STATE))


def overflowing(run: RunSpec, start: NamedArrays) -> tuple[NamedArrays, HostBatch]:
    """A state and a batch whose loss is finite, while the gradient of one row of weights is not.

    The row is zero, so that its enormous pixel does nothing going forward; the head is steep.
    """
    state = {name: array.copy() for name, array in start.items()}
    state["param/dense_0/kernel"][1] = 0.0
    state["param/head/kernel"] *= 1e4
    batch = small_batch(run)
    inputs = batch.inputs.copy()
    inputs[0, :, 0, 1, 0] = 1e38
    return state, replace(batch, inputs=inputs)


def one_step(learner: Any, start: NamedArrays, batch: HostBatch) -> tuple[NamedArrays, Any]:
    state, metrics = learner.steps(learner.restore(start), learner.place(batch), small_controls())
    return learner.snapshot(state, "training"), metrics


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("optimizer", ["adan", "gnb"])
def test_zero_clears_the_elements_that_are_not_finite_and_no_others(engine: str, optimizer: str) -> None:
    with opened(engine) as make:
        run = small_run(optimizer, non_finite_gradients="zero")
        learner, plain = make(run), make(small_run(optimizer))
        start, batch = overflowing(run, learner.snapshot(learner.init(0), "training"))
        end, metrics = one_step(learner, start, batch)
        assert np.asarray(metrics["non_finite"]).tolist() == [1]
        assert np.isfinite(np.asarray(metrics["loss"])).all()
        assert int(end["counter/applied"]) == 1
        inputs = batch.inputs.copy()
        inputs[0, :, 0, 1, 0] = 0.0  # then these weights have no gradient, and all else is the same
        expected, _ = one_step(plain, start, replace(batch, inputs=inputs))
        for name in end:
            np.testing.assert_array_equal(end[name], expected[name], err_msg=name)
        assert not end["slot/m/dense_0/kernel"][1].any()


def test_without_a_policy_nothing_is_counted() -> None:
    with opened("zero1") as make:
        run = small_run()
        learner = make(run)
        _, metrics = learner.steps(learner.init(0), learner.place(small_batch(run)), small_controls())
        assert set(metrics) == {"loss", "correct", "count"}


@pytest.mark.parametrize(
    ("engine", "policy"),
    [*product(["zero1", "zero2", "zero3"], ["raise"]), *product(["zero1", "zero2"], ["zero", "skip"])],
)
def test_what_zero_refuses_ends_the_run(engine: str, policy: str) -> None:
    """DeepSpeed leaves such an update out without a word; a loss that is NaN makes the loop end the run.

    With a policy, the gradients are finite and only their norm overflows, as it does on stages 1 and 2.
    """
    with opened(engine) as make:
        run = small_run(non_finite_gradients=policy)
        learner = make(run)
        start, batch = overflowing(run, learner.snapshot(learner.init(0), "training"))
        if policy != "raise":
            start["param/head/kernel"] *= 1e-9
        end, metrics = one_step(learner, start, batch)
        assert np.isnan(np.asarray(metrics["loss"])).all()
        assert int(end["counter/applied"]) == 0
        assert not np.asarray(metrics.get("non_finite", 0)).any()


@pytest.mark.parametrize("engine", ENGINES)
def test_averaged_weights_are_the_average_and_are_what_is_evaluated(engine: str) -> None:
    decay, run = 0.7, small_run("adabelief", ema_decay=0.7)
    with opened(engine) as make:
        learner, plain = make(run), make(small_run("adabelief"))
        held_out = learner.place(small_batch(run, start=99))
        state = learner.init(run.seed)
        weights, models, losses = [], [], []
        for step in range(4):
            weights.append(learner.snapshot(state, "training"))
            models.append(learner.snapshot(state, "model"))
            losses += [float(learner.evaluate(state, held_out)["loss_sum"]) for _ in range(2)]
            state, _ = learner.steps(state, learner.place(small_batch(run, start=step)), small_controls(start=step))
        assert losses[0::2] == losses[1::2]
        assert len(set(losses)) == 4
        for name, array in models[0].items():
            np.testing.assert_array_equal(array, weights[0][f"param/{name}"])
        shares = decay ** np.arange(2, -1, -1.0)
        for name, array in models[3].items():
            expected = np.average([moment[f"param/{name}"] for moment in weights[1:]], axis=0, weights=shares)
            np.testing.assert_allclose(array, expected, rtol=0, atol=2e-7)
            np.testing.assert_array_equal(array, weights[3][f"slot/ema/{name}"])
        bare = {name: array for name, array in weights[3].items() if "/ema/" not in name}
        averaged = plain.restore(bare | {f"param/{name}": array for name, array in models[3].items()})
        assert float(plain.evaluate(averaged, held_out)["loss_sum"]) == pytest.approx(losses[6], rel=1e-6)


def test_averaging_changes_nothing_else() -> None:
    with opened("zero3") as make:
        plain, averaged = (train(make(run), run, None, range(3))[1] for run in (small_run(), small_run(ema_decay=0.5)))
    assert all(np.array_equal(array, averaged[name]) for name, array in plain.items())


@pytest.mark.parametrize("clipping", ["global", "adaptive"])
def test_clipping_changes_the_run(clipping: str) -> None:
    with opened("plain") as make:
        before, after = (
            train(make(run), run, None, range(1))[1] for run in (small_run(), small_run(clipping=clipping))
        )
    name = "slot/m/dense_0/kernel"
    assert np.abs(after[name]).max() < 0.97 * np.abs(before[name]).max()


@pytest.mark.parametrize(
    ("engine", "optimizer"),
    [*product(ENGINES, ["gnb", "adan"]), *product(ENGINES[:4], ["hutchinson"])],  # it is refused on stage 3
)
def test_restoring_goes_on_bit_for_bit_with_everything_on(engine: str, optimizer: str) -> None:
    run = small_run(optimizer, "adaptive", non_finite_gradients="skip", ema_decay=0.9, gradient_accumulation=2)
    with opened(engine) as make:
        whole = train(make(run), run, None, range(6))[1]
        learner = make(run)
        half = train(learner, run, None, range(2))[1]
        state, end = train(learner, run, half, range(2, 6))
        assert all(np.array_equal(array, whole[name]) for name, array in end.items())
        assert learner.snapshot(state, "model").keys() == {name[6:] for name in end if name.startswith("param/")}
