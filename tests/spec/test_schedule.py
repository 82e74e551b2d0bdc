"""Schedules in a file: every one has a name, its ranges are checked, and a switch keeps the warm-up."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from dlhpc.errors import ConfigError
from dlhpc.spec.load import load_run
from dlhpc.spec.schedule import Schedule, WarmupCosineSchedule, WSDSchedule

NAMES = [kind.model_fields["name"].default for kind in get_args(get_args(Schedule)[0])]


def schedule(*settings: str) -> Schedule:
    return load_run(None, overrides=[f"training.schedule.{one}" for one in settings], environ={}).training.schedule


def test_the_names() -> None:
    assert NAMES == [
        "constant", "linear", "cosine", "warmup_cosine", "polynomial", "one_cycle", "wsd", "reduce_on_plateau",
    ]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_each_is_chosen_by_its_name_and_takes_a_warmup(name: str) -> None:
    chosen = schedule(f"name={name}", "warmup=0.125")
    assert (chosen.name, chosen.warmup) == (name, 0.125)


def test_without_a_choice_it_is_a_cosine_with_a_warmup() -> None:
    assert schedule() == WarmupCosineSchedule(warmup=0.05, final_scale=0.0)


@pytest.mark.parametrize("warmup", [0, 1])
@pytest.mark.parametrize("name", NAMES)
def test_the_bounds_of_a_share_belong_to_it(name: str, warmup: int) -> None:
    more = ["decay=0"] if name == "wsd" else []
    assert schedule(f"name={name}", f"warmup={warmup}", *more).warmup == warmup


@pytest.mark.parametrize(
    ("name", "setting", "expected"),
    [
        ("linear", "warmup=1.5", "a number >= 0 and <= 1"),
        ("linear", "warmup=-0.1", "a number >= 0 and <= 1"),
        ("linear", "warmup=100", "a number >= 0 and <= 1"),
        ("cosine", "final_scale=2.0", "a number >= 0 and <= 1"),
        ("polynomial", "power=0", "a number > 0 and <= 100"),
        ("one_cycle", "div_factor=0.5", "a number >= 1"),
        ("one_cycle", "final_div_factor=0.5", "a number >= 1"),
        ("wsd", "decay=1.1", "a number >= 0 and <= 1"),
        ("wsd", "shape=exponential", "one of 'sqrt', 'linear'"),
        ("reduce_on_plateau", "monitor=f1", "one of 'loss', 'accuracy'"),
        ("reduce_on_plateau", "factor=1", "a number > 0 and < 1"),
        ("reduce_on_plateau", "factor=0", "a number > 0 and < 1"),
        ("reduce_on_plateau", "patience=-1", "an integer >= 0"),
        ("reduce_on_plateau", "patience=1.5", "an integer >= 0"),
        ("reduce_on_plateau", "cooldown=-1", "an integer >= 0"),
        ("reduce_on_plateau", "threshold=1", "a number >= 0 and < 1"),
        ("reduce_on_plateau", "min_scale=1.5", "a number >= 0 and <= 1"),
    ],
)
def test_values_out_of_range_are_refused(name: str, setting: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        schedule(f"name={name}", setting)
    (problem,) = caught.value.problems
    key = f"training.schedule.{setting.partition('=')[0]}"
    assert f": {key}: " in problem
    assert f"expected {expected}" in problem


def test_warmup_and_decay_of_wsd_fit_into_the_run(tmp_path: Path) -> None:
    assert schedule("name=wsd", "warmup=0.9", "decay=0.1") == WSDSchedule(warmup=0.9, decay=0.1)
    path = tmp_path / "run.yaml"
    path.write_text("training:\n  schedule:\n    name: wsd\n    warmup: 0.5\n    decay: 0.6\n")
    with pytest.raises(ConfigError) as caught:
        load_run(path, environ={})
    (problem,) = caught.value.problems
    assert problem.startswith(f"{path}:3:5: training.schedule: warmup 0.5 and decay 0.6 came, together more than the")
    assert "expected a sum of at most 1" in problem


def test_a_switch_keeps_the_warmup_alone(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("training: {schedule: {name: cosine, warmup: 0.125, final_scale: 0.5}}")
    path = tmp_path / "run.yaml"
    path.write_text("extends: base.yaml\ntraining: {schedule: {name: wsd}}")
    assert load_run(path, environ={}).training.schedule == WSDSchedule(warmup=0.125)


@pytest.mark.parametrize(
    ("name", "option", "hint"),
    [
        ("cosine", "eta_min", "did you mean 'final_scale'?"),
        ("one_cycle", "pct_start", "did you mean 'warmup'?"),
        ("reduce_on_plateau", "min_lr", "did you mean 'min_scale'?"),
        ("cosine", "patience", "it belongs to training.schedule.name 'reduce_on_plateau', not to 'cosine'"),
    ],
)
def test_other_tools_options_lead_to_ours(name: str, option: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        schedule(f"name={name}", f"{option}=0.3")
    (problem,) = caught.value.problems
    assert f"unknown key; {hint}" in problem
