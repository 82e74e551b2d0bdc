"""The PyTorch learner, on DeepSpeed and without: exact where it must be, and owner of what it hands out."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from dlhpc.data.batch import HostBatch
from dlhpc.engines import torch_deepspeed
from dlhpc.engines.torch_learner import TorchLearner
from dlhpc.errors import ConfigError, IntegrityError
from dlhpc.ports import Controls, NamedArrays
from dlhpc.spec.run import RunSpec

ROWS = 8
MADE: list[TorchLearner] = []


@pytest.fixture(params=["deepspeed", "plain"], autouse=True)
def _engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test runs on both engines, and closes what it made."""
    if request.param == "plain":
        monkeypatch.setattr(torch_deepspeed, "available", lambda: False)
    yield
    learner_of.cache_clear()
    while MADE:
        MADE.pop().close()
    assert not torch.distributed.is_initialized()


def run_spec(model: dict[str, Any] | None = None, **changes: Any) -> RunSpec:
    shape: dict[str, Any] = {"architecture": "mlp", "input_shape": (3, 4, 1), "num_classes": 3, "hidden_sizes": (6,)}
    training = {"batch_size": ROWS, **changes.pop("training", {})}
    return RunSpec.model_validate(
        {"model": shape | {"dropout_rate": 0.25} | (model or {}), "training": training, **changes}
    )


def host_batch(steps: int = 1, start: int = 0, padding: int = 0) -> HostBatch:
    draws = [np.random.default_rng(start + step) for step in range(steps)]
    inputs = np.stack([draw.integers(0, 256, (ROWS, 3, 4, 1), dtype=np.uint8) for draw in draws])
    labels = np.stack([draw.integers(0, 3, ROWS).astype(np.int32) for draw in draws])
    if padding:
        labels[:, -padding:] = -1
    return HostBatch(inputs, labels, np.full(steps, ROWS - padding, np.int32))


def controls(steps: int = 1, start: int = 0, rate: float = 0.01, dropout: float = 0.25) -> Controls:
    return Controls(np.full(steps, rate), np.arange(start, start + steps), np.full(steps, dropout))


@cache
def learner_of(run: RunSpec) -> TorchLearner:
    """Learners are constant: equal runs share one, and what it has made."""
    MADE.append(TorchLearner(run))
    return MADE[-1]


def after(run: RunSpec, dispatches: list[tuple[HostBatch, Controls]]) -> NamedArrays:
    """The training state from the seed after these dispatches."""
    learner = learner_of(run)
    state = learner.init(run.seed)
    for batch, control in dispatches:
        state, _ = learner.steps(state, learner.place(batch), control)
    return learner.snapshot(state, "training")


def assert_close(a: NamedArrays, b: NamedArrays, tolerance: float) -> None:
    assert a.keys() == b.keys()
    for name, array in a.items():
        np.testing.assert_allclose(array, b[name], rtol=0, atol=tolerance * max(1e-30, np.abs(b[name]).max()))


def test_equal_runs_are_equal_bit_for_bit_and_other_seeds_are_not() -> None:
    work = [(host_batch(), controls())]
    one, two, other = after(run_spec(), work), after(run_spec(), work), after(run_spec(seed=1), work)
    assert all(np.array_equal(one[name], two[name]) for name in one)
    assert not np.array_equal(one["param/head/kernel"], other["param/head/kernel"])


@pytest.mark.parametrize("field", ["learning_rate", "step", "dropout_rate"])
def test_every_control_changes_the_step(field: str) -> None:
    plain = after(run_spec(), [(host_batch(), controls())])
    values = {"learning_rate": np.array([0.02]), "step": np.array([7]), "dropout_rate": np.array([0.5])}
    fields = {name: getattr(controls(), name) for name in values} | {field: values[field]}
    changed = after(run_spec(), [(host_batch(), Controls(**fields))])
    assert not np.array_equal(plain["param/dense_0/kernel"], changed["param/dense_0/kernel"])


def test_several_steps_in_one_dispatch_equal_single_steps_within_rounding() -> None:
    together = after(run_spec(), [(host_batch(4), controls(4))])
    single = after(run_spec(), [(host_batch(1, step), controls(1, step)) for step in range(4)])
    assert_close(together, single, 1e-4)
    assert int(together["counter/consumed"]) == int(together["counter/applied"]) == 4


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulation_equals_the_whole_batch_within_rounding(parts: int) -> None:
    accumulated = run_spec(training={"gradient_accumulation": parts, "precision": "float64"})
    work = [(host_batch(start=step, padding=3), controls(start=step)) for step in range(3)]
    assert_close(after(accumulated, work), after(run_spec(training={"precision": "float64"}), work), 1e-12)


def test_dropout_does_not_depend_on_where_the_rows_are_cut() -> None:
    """Both halves of a batch, each with its first row's number, give the whole batch's gradient (Lion's momentum)."""
    run = run_spec(optimizer={"name": "lion", "b2": 0.0}, training={"precision": "float64"})
    batch = host_batch()
    halves = [
        HostBatch(batch.inputs[:, rows], batch.labels[:, rows], batch.counts, rows.start or 0)
        for rows in (slice(None, 4), slice(4, None))
    ]
    slot = "slot/m/dense_0/kernel"
    whole = after(run, [(batch, controls())])[slot]
    parts = [after(run, [(half, controls())])[slot] for half in halves]
    np.testing.assert_allclose(parts[0] + parts[1], whole, rtol=1e-12, atol=1e-15)


def test_metrics_are_sums_over_real_rows() -> None:
    learner = learner_of(run_spec(model={"dropout_rate": 0.0}))
    state = learner.init(0)
    placed = learner.place(host_batch(padding=3))
    sums = {name: float(value) for name, value in learner.evaluate(state, placed).items()}
    _, metrics = learner.steps(state, placed, controls(dropout=0.0))
    assert sums["count"] == 5
    assert {name: value.shape for name, value in metrics.items()} == {"loss": (1,), "correct": (1,), "count": (1,)}
    assert float(metrics["loss"][0]) == pytest.approx(sums["loss_sum"] / 5, rel=1e-6)
    assert float(metrics["correct"][0]) == sums["correct"]


def test_evaluation_has_no_dropout_and_no_smoothing() -> None:
    plain, smooth = (learner_of(run_spec(training={"label_smoothing": value})) for value in (0.0, 0.5))
    batch = host_batch()
    first, second = (
        float(learner.evaluate(learner.init(0), learner.place(batch))["loss_sum"]) for learner in (plain, smooth)
    )
    assert first == second


def test_smoothing_changes_training() -> None:
    work = [(host_batch(), controls())]
    smooth = after(run_spec(training={"label_smoothing": 0.5}), work)
    assert not np.array_equal(smooth["slot/m/head/bias"], after(run_spec(), work)["slot/m/head/bias"])


def test_a_frozen_group_stays_and_biases_do_not_decay() -> None:
    groups = [{"match": "dense_0/*", "learning_rate_scale": 0.0}]
    run = run_spec(optimizer={"name": "lion", "groups": groups, "weight_decay": 0.5})
    start = learner_of(run).snapshot(learner_of(run).init(0), "model")
    end = after(run, [(host_batch(), controls(rate=0.1))])
    np.testing.assert_array_equal(end["param/dense_0/kernel"], start["dense_0/kernel"])
    # Lion moves every weight by the rate; what is more or less comes from the decay.
    moved = np.abs(end["param/head/kernel"] - start["head/kernel"] * (1 - 0.1 * 0.5))
    np.testing.assert_allclose(moved, 0.1, rtol=1e-5)
    np.testing.assert_allclose(np.abs(end["param/head/bias"]), 0.1, rtol=1e-6)


@pytest.mark.parametrize(
    ("precision", "dtype"), [("float32", "float32"), ("bfloat16", "float32"), ("float64", "float64")]
)
def test_weights_are_kept_in_the_master_precision(precision: str, dtype: str) -> None:
    state = after(run_spec(training={"precision": precision}), [(host_batch(), controls())])
    assert {str(array.dtype) for name, array in state.items() if not name.startswith("counter/")} == {dtype}
    assert {state[name].dtype for name in ("counter/consumed", "counter/applied")} == {np.dtype(np.int64)}


def test_precision_changes_the_numbers() -> None:
    work = [(host_batch(), controls())]
    wide, narrow = (after(run_spec(training={"precision": name}), work) for name in ("float64", "bfloat16"))
    error = np.abs(wide["slot/m/head/kernel"] - narrow["slot/m/head/kernel"]).max()
    assert 1e-6 < error < 0.05 * np.abs(wide["slot/m/head/kernel"]).max()


def test_a_snapshot_survives_the_spending_of_its_state() -> None:
    learner = learner_of(run_spec())
    state = learner.init(0)
    snapshot = learner.snapshot(state, "training")
    copy = {name: array.copy() for name, array in snapshot.items()}
    state, _ = learner.steps(state, learner.place(host_batch()), controls())
    learner.snapshot(state, "training")
    assert all(np.array_equal(copy[name], array) for name, array in snapshot.items())
    assert all(array.flags.owndata and array.flags.writeable for array in snapshot.values())


def test_a_placed_batch_survives_the_overwriting_of_the_hosts_arrays() -> None:
    learner = learner_of(run_spec())
    batch = HostBatch(np.ones((1, 4096, 3, 4, 1), np.uint8), np.zeros((1, 4096), np.int32), np.array([4096], np.int32))
    placed = learner.place(batch)
    for array in (batch.inputs, batch.labels, batch.counts):
        array[...] = 99
    assert np.asarray(placed.inputs).max() == 1
    assert np.asarray(placed.labels).max() == 0
    assert int(placed.counts[0]) == 4096


def test_restoring_goes_on_bit_for_bit() -> None:
    work = [(host_batch(start=step), controls(start=step)) for step in range(6)]
    learner = learner_of(run_spec())
    half = after(run_spec(), work[:3])
    state = learner.restore(half)
    for array in half.values():
        array[...] = 0  # the state owns its arrays
    for batch, control in work[3:]:
        state, _ = learner.steps(state, learner.place(batch), control)
    whole = after(run_spec(), work)
    assert all(np.array_equal(array, whole[name]) for name, array in learner.snapshot(state, "training").items())


def test_the_model_is_the_training_states_parameters() -> None:
    learner = learner_of(run_spec())
    state = learner.init(0)
    model, training = learner.snapshot(state, "model"), learner.snapshot(state, "training")
    assert list(model) == ["dense_0/kernel", "dense_0/bias", "head/kernel", "head/bias"]
    assert all(np.array_equal(array, training[f"param/{name}"]) for name, array in model.items())


@pytest.mark.parametrize("change", ["missing", "misshapen", "unknown", "other optimizer"])
def test_a_state_that_does_not_fit_is_refused(change: str) -> None:
    snapshot = dict(after(run_spec(), [(host_batch(), controls())]))
    match change:
        case "missing":
            del snapshot["slot/v/head/bias"]
        case "misshapen":
            snapshot["param/head/kernel"] = snapshot["param/head/kernel"].T
        case "unknown":
            snapshot["param/tail"] = np.zeros(1, np.float32)
    run = run_spec(optimizer={"name": "lion"}) if change == "other optimizer" else run_spec()
    with pytest.raises(IntegrityError, match="does not fit the model and optimizer"):
        learner_of(run).restore(snapshot)


def test_a_dropout_rate_needs_a_model_with_dropout() -> None:
    learner = learner_of(run_spec(model={"dropout_rate": 0.0}))
    with pytest.raises(ValueError, match=r"model\.dropout_rate is 0"):
        learner.steps(learner.init(0), learner.place(host_batch()), controls(dropout=0.5))


def test_batches_that_cannot_be_cut_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"training\.batch_size: 8 is not a multiple"):
        learner_of(run_spec(training={"gradient_accumulation": 3}))


def test_learners_follow_one_another_and_stand_side_by_side() -> None:
    """Whatever is closed first: the process group lives as long as one of them."""
    first, second = TorchLearner(run_spec()), TorchLearner(run_spec())
    state = second.init(0)
    first.close()
    state, _ = second.steps(state, second.place(host_batch()), controls())
    second.close()
    third = learner_of(run_spec())
    assert third.snapshot(third.init(0), "model").keys() == {
        "dense_0/kernel",
        "dense_0/bias",
        "head/kernel",
        "head/bias",
    }
    assert (third.rank, third.world_size, third.agree(3)) == (0, 1, 3)


def test_closing_twice_is_closing_once() -> None:
    learner = TorchLearner(run_spec())
    learner.close()
    learner.close()


def test_states_of_one_learner_are_independent() -> None:
    learner = learner_of(run_spec())
    kept, moved = learner.init(0), learner.init(0)
    learner.steps(moved, learner.place(host_batch()), controls())
    assert int(learner.snapshot(kept, "training")["counter/applied"]) == 0
    fresh = learner.snapshot(learner.init(0), "model")
    assert all(np.array_equal(array, fresh[name]) for name, array in learner.snapshot(kept, "model").items())
