"""The Flax learner: exact where it must be, compiled once, and owner of what it hands out."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from dlhpc.data.batch import HostBatch
from dlhpc.engines.flax_learner import FlaxLearner
from dlhpc.errors import ConfigError, IntegrityError, UsageError
from dlhpc.ports import Controls
from tests.engines.flax_runs import after, assert_close, controls, host_batch, learner_of, run_spec


def test_equal_runs_are_equal_bit_for_bit_and_other_seeds_are_not() -> None:
    work = [(host_batch(), controls())]
    one, two, other = after(run_spec(), work), after(run_spec(), work), after(run_spec(seed=1), work)
    assert all(np.array_equal(one[name], two[name]) for name in one)
    assert not np.array_equal(one["param/head/kernel"], other["param/head/kernel"])


def test_values_of_the_controls_never_recompile() -> None:
    learner = FlaxLearner(run_spec())
    state = learner.init(0)
    for step in range(5):
        control = controls(start=step * 1000, rate=0.1 / (step + 1), dropout=0.1 * step)
        state, _ = learner.steps(state, learner.place(host_batch(start=step, padding=step)), control)
        learner.evaluate(state, learner.place(host_batch(start=step, padding=step)))
    assert learner._steps._cache_size() == learner._evaluate._cache_size() == 1


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
    learner = FlaxLearner(run_spec(model={"dropout_rate": 0.0}))
    state = learner.init(0)
    placed = learner.place(host_batch(padding=3))
    sums = {name: float(value) for name, value in learner.evaluate(state, placed).items()}
    _, metrics = learner.steps(state, placed, controls(dropout=0.0))
    assert sums["count"] == 5
    assert {name: value.shape for name, value in metrics.items()} == {"loss": (1,), "correct": (1,), "count": (1,)}
    assert float(metrics["loss"][0]) == pytest.approx(sums["loss_sum"] / 5, rel=1e-6)
    assert float(metrics["correct"][0]) == sums["correct"]


def test_evaluation_has_no_dropout_and_no_smoothing() -> None:
    plain, smooth = (FlaxLearner(run_spec(training={"label_smoothing": value})) for value in (0.0, 0.5))
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


def test_float64_leaves_the_rest_of_the_process_alone() -> None:
    after(run_spec(training={"precision": "float64"}), [(host_batch(), controls())])
    assert jax.numpy.ones(1).dtype == np.float32


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
    """Large enough that JAX on a CPU uses the memory of a numpy argument in place, while it computes."""
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


def test_what_one_flax_process_cannot_do_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="zero_stage"):
        FlaxLearner(run_spec(distributed={"zero_stage": 1}))
    with pytest.raises(ConfigError, match="does not divide"):
        FlaxLearner(run_spec(training={"gradient_accumulation": 3}))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="trains in one process, but 2 were launched"):
        FlaxLearner(run_spec())


def test_a_dropout_rate_needs_a_model_with_dropout() -> None:
    learner = FlaxLearner(run_spec(model={"dropout_rate": 0.0}))
    with pytest.raises(ValueError, match=r"model\.dropout_rate is 0"):
        learner.steps(learner.init(0), learner.place(host_batch()), controls(dropout=0.5))


def test_one_process_agrees_with_itself_and_closing_drops_the_programs() -> None:
    learner = FlaxLearner(run_spec())
    learner.steps(learner.init(0), learner.place(host_batch()), controls())
    assert (learner.rank, learner.world_size, learner.agree(3)) == (0, 1, 3)
    learner.close()
    assert learner._steps._cache_size() == 0
