"""The loop, with a learner written in numpy."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dlhpc.errors import ConfigError, TrainingError
from dlhpc.optimizers.schedules import scale
from dlhpc.ports import Controls
from dlhpc.spec.run import RunSpec
from dlhpc.spec.schedule import ReduceOnPlateauSchedule, Schedule
from dlhpc.training import loop
from dlhpc.training.callbacks import stop_on_nan
from dlhpc.training.checkpoint import find_last, read_checkpoint
from dlhpc.training.events import Checkpointed, Evaluated, Event, Finished, Logged, Started, Stepped, Stop, wants
from dlhpc.training.loop import Fitted, fit
from tests.optimizers.schedule_specs import CLASSES
from tests.training.softmax import Group, SoftmaxLearner, make_batches, make_held_out, make_run, make_store


def record(
    run: RunSpec, folder: Path | None = None, *, validate: bool = True, **settings: Any
) -> tuple[Fitted, list[Event]]:
    """Fit, and everything that was told."""
    events: list[Event] = []
    callbacks = [events.append, *settings.pop("callbacks", ())]
    store = None if folder is None else make_store(folder, run)
    learner = settings.pop("learner", None) or SoftmaxLearner(run)
    fitted = fit(
        learner,
        run,
        make_batches(run),
        held_out=make_held_out(run) if validate else None,
        callbacks=callbacks,
        store=store,
        **settings,
    )
    return fitted, events


def steps_of(events: list[Event], kind: type) -> list[int]:
    return [event.step for event in events if isinstance(event, kind)]


def numbers(events: list[Event]) -> list[Event]:
    """What must be equal in an equal run: no times, no paths."""
    kept: list[Event] = []
    for event in events:
        if isinstance(event, Logged):
            kept.append(replace(event, seconds=0.0, examples_per_second=0.0))
        elif isinstance(event, Evaluated):
            kept.append(replace(event, seconds=0.0))
    return kept


def same(one: Fitted, other: Fitted) -> bool:
    return one.weights.keys() == other.weights.keys() and all(
        np.array_equal(one.weights[name], other.weights[name]) for name in one.weights
    )


def stop_at(step: int, *, interrupted: bool = True) -> Any:
    @wants(Stepped)
    def callback(event: Stepped) -> Stop | None:
        return Stop("enough", interrupted) if event.step >= step else None

    return callback


def test_fit_takes_the_same_steps_as_a_bare_loop() -> None:
    run = make_run()
    learner, batches = SoftmaxLearner(run), make_batches(run)
    total = 3 * batches.steps_per_epoch
    state = learner.init(run.seed)
    for step in range(total):
        lr = run.training.learning_rate * scale(run.training.schedule, step, total)
        controls = Controls(np.array([lr]), np.array([step]), np.array([0.0]))
        state, _ = learner.steps(state, learner.place(batches.read(step)), controls)
    bare = learner.snapshot(state, "model")
    fitted, _ = record(run, validate=False)
    assert all(np.array_equal(bare[name], fitted.weights[name]) for name in bare)
    assert fitted.best is None


def test_it_learns() -> None:
    fitted, events = record(make_run())
    losses = [event.loss for event in events if isinstance(event, Logged)]
    assert losses[-1] < 0.3 * losses[0]
    assert fitted.best is not None
    assert fitted.best.accuracy > 0.7


def test_events_come_in_order_with_their_facts(tmp_path: Path) -> None:
    fitted, events = record(make_run(num_epochs=1), tmp_path)
    kinds = [type(event).__name__ for event in events]
    assert kinds == [
        "Started", *["Stepped"] * 5, "Logged", *["Stepped"] * 2, "Logged", "Evaluated", "Checkpointed", "Finished",
    ]  # fmt: skip
    assert events[0] == Started(step=0, total_steps=7, steps_per_epoch=7, num_epochs=1, rank=0, world_size=1)
    assert steps_of(events, Logged) == [5, 7]
    evaluated = next(event for event in events if isinstance(event, Evaluated))
    assert (evaluated.epoch, evaluated.examples, evaluated.is_best) == (1.0, 17, True)
    assert events[-2] == Checkpointed(7, tmp_path / "step-00000007")
    assert events[-1] == Finished(7, fitted.seconds, None)


def test_logged_means_are_over_the_steps_since_the_last(tmp_path: Path) -> None:
    _, events = record(make_run(num_epochs=1))
    first = [event.metrics for event in events if isinstance(event, Stepped)][:5]
    logged = next(event for event in events if isinstance(event, Logged))
    assert logged.loss == pytest.approx(np.mean([metrics["loss"][0] for metrics in first]))
    assert logged.accuracy == pytest.approx(np.sum([metrics["correct"] for metrics in first]) / 80)
    assert logged.epoch == pytest.approx(5 / 7)
    assert logged.learning_rate == pytest.approx(0.1 * scale(make_run().training.schedule, 4, 7))


def test_events_that_nobody_wants_are_never_made(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("Stepped", "Logged", "Evaluated", "Checkpointed"):
        monkeypatch.setattr(loop, name, None)  # making one would fail
    finished: list[Finished] = []

    @wants(Finished)
    def last(event: Finished) -> None:
        finished.append(event)

    # `listeners` is asked for the patched names too, which no callback wants.
    run = make_run()
    fit(SoftmaxLearner(run), run, make_batches(run), held_out=make_held_out(run), callbacks=[last])
    assert len(finished) == 1


@pytest.mark.parametrize(
    ("setting", "kind", "expected"),
    [
        ({"log_every": 4}, Logged, [4, 7, 11, 14, 18, 21]),
        ({"log_every": 50}, Logged, [7, 14, 21]),
        ({"evaluate_every": 2}, Evaluated, [14, 21]),
        ({"evaluate_every": 5}, Evaluated, [21]),
        ({"checkpoint_every": 2}, Checkpointed, [14, 21]),
        ({"num_epochs": 2}, Evaluated, [7, 14]),
        ({"evaluate_every": 3, "checkpoint_every": 3, "log_every": 8}, Logged, [8, 16, 21]),
    ],
)
def test_settings_say_when(tmp_path: Path, setting: dict[str, int], kind: type, expected: list[int]) -> None:
    _, events = record(make_run(**setting), tmp_path)
    assert steps_of(events, kind) == expected


def test_several_steps_a_dispatch_end_epochs_where_they_cross_them(tmp_path: Path) -> None:
    _, events = record(make_run(steps_per_dispatch=4), tmp_path)
    assert steps_of(events, Stepped) == [4, 8, 12, 16, 20, 21]
    assert steps_of(events, Evaluated) == [8, 16, 21]
    assert steps_of(events, Checkpointed) == [8, 16, 21]


def test_controls_follow_the_schedule_and_the_spec() -> None:
    run = make_run(num_epochs=1, steps_per_dispatch=4)
    run = run.model_copy(update={"model": run.model.model_copy(update={"dropout_rate": 0.25})})
    learner = SoftmaxLearner(run)
    record(run, learner=learner)
    step = np.concatenate([controls.step for controls in learner.seen])
    rates = np.concatenate([controls.learning_rate for controls in learner.seen])
    assert step.tolist() == list(range(7))
    assert rates.tolist() == [0.1 * scale(run.training.schedule, n, 7) for n in range(7)]
    assert all((controls.dropout_rate == 0.25).all() for controls in learner.seen)


IMPATIENT = ReduceOnPlateauSchedule(patience=0, threshold=0.9)
"""Only a loss of a tenth of the best is better: every evaluation after the first halves the learning rate."""


def rates_of(learner: SoftmaxLearner) -> list[float]:
    return [float(rate) for controls in learner.seen for rate in controls.learning_rate]


@pytest.mark.parametrize(
    ("changes", "settings", "expected"),
    [
        ({}, {}, [*[1.0] * 14, *[0.5] * 7, *[0.25] * 7]),
        ({}, {"evaluate_every": 2}, [1.0] * 28),
        ({}, {"steps_per_dispatch": 4}, [*[1.0] * 16, *[0.5] * 8, *[0.25] * 4]),
        ({"patience": 1}, {}, [*[1.0] * 21, *[0.5] * 7]),
        ({"warmup": 8 / 28}, {}, [*[(step + 1) / 8 for step in range(8)], *[1.0] * 13, *[0.5] * 7]),
        ({"monitor": "accuracy", "min_scale": 0.5}, {}, [*[1.0] * 14, *[0.5] * 14]),
    ],
)
def test_the_rate_falls_when_evaluations_stop_getting_better(
    changes: dict[str, Any], settings: dict[str, int], expected: list[float]
) -> None:
    run = make_run(num_epochs=4, schedule=IMPATIENT.model_copy(update=changes), **settings)
    learner = SoftmaxLearner(run)
    _, events = record(run, learner=learner)
    assert rates_of(learner) == pytest.approx([0.1 * scale for scale in expected])
    logged = {event.step: event.learning_rate for event in events if isinstance(event, Logged)}
    assert logged[28] == rates_of(learner)[-1]


@pytest.mark.parametrize("stop_step", [3, 7, 14, 17, 27])
def test_reductions_outlive_an_interruption(tmp_path: Path, stop_step: int) -> None:
    run = make_run(num_epochs=4, schedule=IMPATIENT)
    learner = SoftmaxLearner(run)
    straight, events = record(run, tmp_path / "straight", learner=learner)
    _, first = record(run, tmp_path / "again", callbacks=[stop_at(stop_step)])
    again = SoftmaxLearner(run)
    checkpoint = read_checkpoint(find_last(tmp_path / "again"))
    resumed, second = record(run, tmp_path / "again", learner=again, resume=checkpoint)
    assert rates_of(again) == rates_of(learner)[stop_step:]
    assert same(resumed, straight)
    ends = [read_checkpoint(find_last(tmp_path / name)) for name in ("straight", "again")]
    assert ends[0].manifest.plateau == ends[1].manifest.plateau
    assert ends[0].manifest.plateau is not None
    assert ends[0].manifest.plateau.scale == 0.125
    assert all(np.array_equal(ends[0].arrays[name], ends[1].arrays[name]) for name in ends[0].arrays)
    told = [event for event in numbers(first) + numbers(second) if isinstance(event, Evaluated)]
    assert told == [event for event in numbers(events) if isinstance(event, Evaluated)]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_a_run_of_one_step_is_made_with_every_schedule(kind: type[Schedule]) -> None:
    run = make_run(num_epochs=1, batch_size=128, schedule=kind())
    learner = SoftmaxLearner(run)
    fitted, events = record(run, learner=learner)
    assert (fitted.step, rates_of(learner)) == (1, [0.1])
    assert steps_of(events, Evaluated) == [1]


def test_every_process_reduces_at_the_same_step() -> None:
    run = make_run(num_epochs=4, schedule=IMPATIENT)
    alone = SoftmaxLearner(run)
    record(run, learner=alone)
    group = Group(2)
    learners = [SoftmaxLearner(run, group, rank) for rank in range(2)]
    threads = [
        threading.Thread(target=fit, args=(learner, run, make_batches(run)), kwargs={"held_out": make_held_out(run)})
        for learner in learners
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert rates_of(learners[0]) == rates_of(learners[1]) == rates_of(alone)


def test_other_schedules_keep_no_plateau(tmp_path: Path) -> None:
    record(make_run(num_epochs=1), tmp_path)
    assert read_checkpoint(find_last(tmp_path)).manifest.plateau is None


def test_a_schedule_that_wants_evaluations_is_refused_without_any() -> None:
    with pytest.raises(ConfigError, match="reduce_on_plateau came, but nothing is held out"):
        record(make_run(schedule=IMPATIENT), validate=False)


@pytest.mark.parametrize("steps_per_dispatch", [1, 4])
@pytest.mark.parametrize("stop_step", [1, 7, 10, 20])
def test_stopped_and_resumed_equals_straight(tmp_path: Path, steps_per_dispatch: int, stop_step: int) -> None:
    run = make_run(steps_per_dispatch=steps_per_dispatch)
    straight, straight_events = record(run, tmp_path / "straight")
    stopped, first = record(run, tmp_path / "again", callbacks=[stop_at(stop_step)])
    assert stopped.stop == Stop("enough", interrupted=True)
    assert stopped.step < 21
    assert steps_of(first, Checkpointed)[-1] == stopped.step
    checkpoint = read_checkpoint(find_last(tmp_path / "again"))
    resumed, second = record(run, tmp_path / "again", resume=checkpoint)
    assert same(resumed, straight)
    assert resumed.best == straight.best
    assert resumed.seconds > checkpoint.manifest.seconds
    ends = [read_checkpoint(find_last(tmp_path / name)).arrays for name in ("straight", "again")]
    assert all(np.array_equal(ends[0][name], ends[1][name]) for name in ends[0])
    evaluations = [event for event in numbers(first) + numbers(second) if isinstance(event, Evaluated)]
    assert evaluations == [event for event in numbers(straight_events) if isinstance(event, Evaluated)]


def test_resumed_from_a_scheduled_checkpoint_tells_the_same(tmp_path: Path) -> None:
    run = make_run(keep_checkpoints=5)
    _, straight = record(run, tmp_path)
    _, resumed = record(run, resume=read_checkpoint(tmp_path / "step-00000014"))
    assert numbers(resumed) == [event for event in numbers(straight) if event.step > 14]


def test_resuming_the_last_step_only_finishes(tmp_path: Path) -> None:
    run = make_run()
    straight, _ = record(run, tmp_path)
    again, events = record(run, tmp_path, resume=read_checkpoint(find_last(tmp_path)))
    assert [type(event) for event in events] == [Started, Finished]
    assert same(again, straight)
    assert again.best == straight.best
    assert again.examples_per_second == 0.0


class Ruined(SoftmaxLearner):
    """Does something to the parameters at step 8 (from 0) and after."""

    factor = 0.0

    def steps(self, state: Any, batch: Any, controls: Controls) -> Any:
        state, metrics = super().steps(state, batch, controls)
        if controls.step[0] >= 8:
            state |= {name: array * self.factor for name, array in state.items() if name.startswith("param/")}
        return state, metrics


def test_the_best_weights_are_returned_not_the_last(tmp_path: Path) -> None:
    run = make_run()
    fitted, events = record(run, tmp_path, learner=Ruined(run))
    assert fitted.best is not None
    assert fitted.best.step == 7
    assert [event.is_best for event in events if isinstance(event, Evaluated)] == [True, False, False]
    short, _ = record(run, callbacks=[stop_at(7, interrupted=False)])
    assert same(fitted, short)
    assert read_checkpoint(tmp_path / "best").manifest.best == fitted.best


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_validation_loss_that_is_not_finite_is_told_and_never_best() -> None:
    run = make_run()
    learner = Ruined(run)
    learner.factor = np.nan
    fitted, events = record(run, learner=learner)
    assert [event.is_best for event in events if isinstance(event, Evaluated)] == [True, False, False]
    assert fitted.best is not None
    assert fitted.best.step == 7


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    run = make_run()
    learner = Ruined(run)
    learner.factor = np.inf
    with pytest.raises(TrainingError, match=r"step 14: the weights are not finite.*learning_rate.*step-00000007"):
        record(run, tmp_path, learner=learner)
    assert find_last(tmp_path).name == "step-00000007"


@pytest.mark.parametrize("k", [1, 4])
def test_a_run_outlives_steps_that_a_policy_deals_with(k: int) -> None:
    run = make_run(non_finite_gradients="skip", steps_per_dispatch=k)
    learner = SoftmaxLearner(run)
    learner.poison_at, learner.poison_until = 4, 8
    fitted, events = record(run, learner=learner, callbacks=[stop_on_nan(0.1)])
    logged = [event for event in events if isinstance(event, Logged)]
    assert fitted.step == 21
    assert sum(event.non_finite_steps for event in logged) == 4
    assert all(np.isfinite(event.loss) for event in logged if event.step not in (7, 8))
    assert [event.first_bad_step for event in logged] == [None] * len(logged)


@pytest.mark.parametrize("policy", ["skip", "zero"])
def test_a_run_ends_when_a_policy_deals_with_every_step_in_vain(policy: str) -> None:
    run = make_run(non_finite_gradients=policy)
    learner = SoftmaxLearner(run)
    learner.poison_at = 6
    with pytest.raises(TrainingError, match=r"step 6: the gradients are not finite any more.*learning_rate"):
        record(run, learner=learner, callbacks=[stop_on_nan(0.1)])


def test_without_a_policy_the_first_bad_loss_ends_the_run() -> None:
    learner = SoftmaxLearner(make_run())
    learner.poison_at, learner.poison_until = 6, 7
    with pytest.raises(TrainingError, match=r"step 6: the loss is not finite any more"):
        record(make_run(), learner=learner, callbacks=[stop_on_nan(0.1)])


def test_a_plain_stop_ends_the_run_with_a_checkpoint(tmp_path: Path) -> None:
    fitted, events = record(make_run(), tmp_path, callbacks=[stop_at(9, interrupted=False)])
    assert fitted.step == 9
    assert fitted.stop == Stop("enough")
    assert steps_of(events, Checkpointed) == [7, 9]
    assert isinstance(events[-1], Finished)
    assert events[-1].stop == Stop("enough")


def test_a_stop_at_the_start_makes_no_more_than_one_dispatch(tmp_path: Path) -> None:
    @wants(Started)
    def never(event: Started) -> Stop:
        return Stop("no")

    fitted, _ = record(make_run(), tmp_path, callbacks=[never])
    assert fitted.step == 1


def test_an_exception_ends_the_run_and_finishes_the_callbacks() -> None:
    @wants(Logged)
    def fail(event: Logged) -> None:
        raise ValueError("no")

    events: list[Event] = []
    run = make_run()
    with pytest.raises(ValueError, match="no"):
        fit(SoftmaxLearner(run), run, make_batches(run), callbacks=[events.append, fail])
    assert isinstance(events[-1], Finished)
    assert events[-1].stop == Stop("ValueError")
    assert not [thread for thread in threading.enumerate() if thread.name == "dlhpc-prefetch"]


def test_processes_stop_at_the_same_step_when_one_does(tmp_path: Path) -> None:
    run = make_run()
    group = Group(2)
    fitted: dict[int, Fitted] = {}
    paths: dict[int, list[Path | None]] = {0: [], 1: []}

    def process(rank: int) -> None:
        @wants(Checkpointed)
        def note(event: Checkpointed) -> None:
            paths[rank].append(event.path)

        callbacks = [note, stop_at(10)] if rank == 1 else [note]
        store = make_store(tmp_path, run) if rank == 0 else None
        learner = SoftmaxLearner(run, group, rank)
        fitted[rank] = fit(
            learner, run, make_batches(run), held_out=make_held_out(run), callbacks=callbacks, store=store
        )

    threads = [threading.Thread(target=process, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert fitted[0].step == fitted[1].step == 10
    assert fitted[0].stop is not None
    assert fitted[0].stop.interrupted
    assert paths[0] == [tmp_path / "step-00000007", tmp_path / "step-00000010"]
    assert paths[1] == [None, None]
    assert same(fitted[0], fitted[1])
