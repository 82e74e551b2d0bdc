"""Schedules are plain functions of the step: each against an independent reference, and at its ends and joins."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import optax
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, OneCycleLR, PolynomialLR, SequentialLR

from dlhpc.optimizers.schedules import scale, warmup_steps
from dlhpc.spec.schedule import (
    ConstantSchedule,
    CosineSchedule,
    LinearSchedule,
    OneCycleSchedule,
    PolynomialSchedule,
    ReduceOnPlateauSchedule,
    Schedule,
    WarmupCosineSchedule,
    WSDSchedule,
)
from tests.optimizers.schedule_specs import CLASSES, SCHEDULES

TOTAL = 100
DECAYING = (LinearSchedule, CosineSchedule, WarmupCosineSchedule, PolynomialSchedule, WSDSchedule)


def curve(schedule: Schedule, total: int = TOTAL) -> list[float]:
    return [scale(schedule, step, total) for step in range(total)]


@pytest.fixture
def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.zeros(1, dtype=torch.float64)], lr=1.0)


def torch_curve(optimizer: torch.optim.Optimizer, scheduler: LRScheduler, total: int = TOTAL) -> list[float]:
    """What PyTorch's scheduler gives for each step of a peak of 1."""
    values = []
    for _ in range(total):
        values.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return values


# -- against independent references ----------------------------------------------------------------------------------


def test_constant_never_changes() -> None:
    assert set(curve(ConstantSchedule())) == {1.0}


def test_warmup_rises_linearly_to_the_peak_and_then_follows_the_cosine() -> None:
    schedule = WarmupCosineSchedule(warmup=0.1, final_scale=0.2)
    values = curve(schedule)
    assert values[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    expected = [0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi * (i - 10) / 90)) for i in range(10, 100)]
    assert values[10:] == pytest.approx(expected)
    assert max(values) == 1.0


def test_warmup_cosine_is_cosine_with_a_warmup() -> None:
    assert curve(WarmupCosineSchedule()) == curve(CosineSchedule(warmup=0.05))
    assert curve(WarmupCosineSchedule(warmup=0.0, final_scale=0.1)) == curve(CosineSchedule(final_scale=0.1))


Build = Callable[[torch.optim.Optimizer, int], LRScheduler]
AFTER_WARMUP: list[tuple[Schedule, Build]] = [
    (ConstantSchedule(), lambda opt, n: LinearLR(opt, 1.0, 1.0, n)),
    (ReduceOnPlateauSchedule(), lambda opt, n: LinearLR(opt, 1.0, 1.0, n)),
    (LinearSchedule(final_scale=0.1), lambda opt, n: LinearLR(opt, 1.0, 0.1, n)),
    (LinearSchedule(), lambda opt, n: PolynomialLR(opt, n, power=1.0)),
    (CosineSchedule(final_scale=0.1), lambda opt, n: CosineAnnealingLR(opt, n, eta_min=0.1)),
    (PolynomialSchedule(), lambda opt, n: PolynomialLR(opt, n, power=2.0)),
    (PolynomialSchedule(power=0.9), lambda opt, n: PolynomialLR(opt, n, power=0.9)),
]


@pytest.mark.parametrize(("schedule", "build"), AFTER_WARMUP, ids=lambda value: getattr(value, "name", ""))
@pytest.mark.parametrize("rising", [0, 20])
def test_equal_to_pytorch(optimizer: torch.optim.Optimizer, schedule: Schedule, build: Build, rising: int) -> None:
    schedule = schedule.model_copy(update={"warmup": rising / TOTAL})
    if rising:
        warming = LinearLR(optimizer, 1 / rising, 1.0, rising - 1)
        scheduler: LRScheduler = SequentialLR(optimizer, [warming, build(optimizer, TOTAL - rising)], [rising])
    else:
        scheduler = build(optimizer, TOTAL)
    assert curve(schedule) == pytest.approx(torch_curve(optimizer, scheduler), abs=1e-12)


@pytest.mark.parametrize(("warmup", "total"), [(0.3, 100), (0.25, 40), (0.5, 4), (0.2, 10)])
@pytest.mark.parametrize(("div", "final_div"), [(25.0, 1e4), (2.0, 10.0)])
def test_one_cycle_equals_pytorch(
    optimizer: torch.optim.Optimizer, warmup: float, total: int, div: float, final_div: float
) -> None:
    scheduler = OneCycleLR(
        optimizer, 1.0, total, pct_start=warmup, div_factor=div, final_div_factor=final_div, cycle_momentum=False
    )
    schedule = OneCycleSchedule(warmup=warmup, div_factor=div, final_div_factor=final_div)
    expected = torch_curve(optimizer, scheduler, total)
    assert curve(schedule, total) == pytest.approx(expected, abs=1e-12)


def test_a_single_rising_step_has_the_peak_where_pytorch_fails(optimizer: torch.optim.Optimizer) -> None:
    assert curve(OneCycleSchedule(warmup=0.5), 2) == pytest.approx([1.0, 1 / 25e4])
    with pytest.raises(ZeroDivisionError):
        OneCycleLR(optimizer, 1.0, 2, pct_start=0.5)


OPTAX: list[tuple[Schedule, Callable[[int], optax.Schedule]]] = [
    (LinearSchedule(final_scale=0.1), lambda n: optax.linear_schedule(1.0, 0.1, n)),
    (CosineSchedule(final_scale=0.1), lambda n: optax.cosine_decay_schedule(1.0, n, alpha=0.1)),
    (PolynomialSchedule(final_scale=0.1, power=3.0), lambda n: optax.polynomial_schedule(1.0, 0.1, 3.0, n)),
]


@pytest.mark.parametrize(("schedule", "build"), OPTAX, ids=lambda value: getattr(value, "name", ""))
@pytest.mark.parametrize("rising", [0, 20])
def test_equal_to_optax(schedule: Schedule, build: Callable[[int], optax.Schedule], rising: int) -> None:
    schedule = schedule.model_copy(update={"warmup": rising / TOTAL})
    reference = build(TOTAL - rising)
    expected = [float(reference(step)) for step in range(TOTAL - rising)]  # float32
    assert curve(schedule)[rising:] == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("final_scale", [0.0, 0.25])
@pytest.mark.parametrize("shape", ["sqrt", "linear"])
def test_wsd_is_the_paper_s_formula(shape: str, final_scale: float) -> None:
    """Hägele et al. 2024: N steps, N_decay of them falling, n counted from 0; the warm-up as everywhere here."""
    n_total, n_warmup, n_decay = TOTAL, 10, 30
    expected = []
    for n in range(n_total):
        if n < n_warmup:
            expected.append((n + 1) / n_warmup)
        elif n <= n_total - n_decay:
            expected.append(1.0)
        else:
            share = (n - (n_total - n_decay)) / n_decay
            falling = 1 - math.sqrt(share) if shape == "sqrt" else 1 - share
            expected.append(final_scale + (1 - final_scale) * falling)
    schedule = WSDSchedule(warmup=0.1, decay=0.3, shape=shape, final_scale=final_scale)
    assert curve(schedule) == pytest.approx(expected, abs=1e-15)


# -- ends, joins, short runs -----------------------------------------------------------------------------------------


@given(schedule=SCHEDULES, total=st.integers(1, 400), data=st.data())
def test_the_scale_of_any_schedule_is_finite_and_in_0_to_1(schedule: Schedule, total: int, data: st.DataObject) -> None:
    step = data.draw(st.integers(0, total + 10))
    value = scale(schedule, step, total)
    assert isinstance(value, float)
    assert 0.0 <= value <= 1.0


@given(schedule=SCHEDULES, total=st.integers(1, 200))
def test_any_schedule_rises_to_the_peak_and_never_rises_again(schedule: Schedule, total: int) -> None:
    values = curve(schedule, total)
    rising = warmup_steps(schedule, total)
    assert 0 <= rising <= total
    assert (np.diff(values[:rising]) >= 0.0).all()
    assert (np.diff(values[max(0, rising - 1) :]) <= 1e-15).all()
    assert max(values) == 1.0


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("warmup", [0.0, 0.3])
def test_no_schedule_jumps(kind: type[Schedule], warmup: float) -> None:
    """Neither inside, nor where its parts join: the steepest step is the square root's first, 1 / sqrt(800)."""
    values = curve(kind(warmup=warmup), 4000)
    assert np.abs(np.diff(values)).max() <= 1.001 / math.sqrt(800)
    join = warmup_steps(kind(warmup=warmup), 4000)
    assert values[max(0, join - 1)] == 1.0
    assert values[join] == pytest.approx(1.0, abs=1e-5)


def test_wsd_begins_to_fall_one_step_after_the_join() -> None:
    values = curve(WSDSchedule(warmup=0.1, decay=0.25))
    assert values[9] == values[75] == 1.0
    assert values[76] == pytest.approx(1 - math.sqrt(1 / 25))


@pytest.mark.parametrize("kind", DECAYING, ids=lambda kind: kind.__name__)
def test_after_the_last_step_the_final_scale_is_reached(kind: type[Schedule]) -> None:
    for step in (TOTAL, 5 * TOTAL):
        assert scale(kind(final_scale=0.3), step, TOTAL) == pytest.approx(0.3, abs=1e-15)
    assert 0.3 < curve(kind(final_scale=0.3))[-1] < 0.36


def test_one_cycle_starts_and_ends_where_it_says() -> None:
    values = curve(OneCycleSchedule(warmup=0.2, div_factor=10.0, final_div_factor=100.0))
    assert values[0] == pytest.approx(0.1)
    assert values[19] == 1.0
    assert values[-1] == pytest.approx(0.001)
    assert scale(OneCycleSchedule(div_factor=10.0, final_div_factor=100.0), 500, TOTAL) == pytest.approx(0.001)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("warmup", [0.0, 0.5, 1.0])
def test_a_run_of_one_step_is_made_at_the_peak(kind: type[Schedule], warmup: float) -> None:
    settings = {"decay": 0.0} if kind is WSDSchedule else {}
    assert scale(kind(warmup=warmup, **settings), 0, 1) == 1.0


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_without_warmup_the_peak_comes_first(kind: type[Schedule]) -> None:
    assert curve(kind(warmup=0.0))[0] == 1.0


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_a_warmup_of_the_whole_run_ends_at_the_peak(kind: type[Schedule]) -> None:
    settings = {"decay": 0.0} if kind is WSDSchedule else {}
    values = curve(kind(warmup=1.0, **settings))
    assert values[-1] == 1.0
    assert (np.diff(values) > 0).all()


def test_parts_that_round_up_never_overlap() -> None:
    """Of 3 steps, halves are 2 and 2: the warm-up has its own, the decay the rest."""
    assert curve(WSDSchedule(warmup=0.5, decay=0.5, shape="linear"), 3) == [0.5, 1.0, 1.0]


# -- settings --------------------------------------------------------------------------------------------------------


CHANGES: Sequence[tuple[type[Schedule], str, object]] = [
    *((kind, "warmup", 0.5) for kind in CLASSES),
    *((kind, "final_scale", 0.9) for kind in DECAYING),
    (PolynomialSchedule, "power", 3.0),
    (OneCycleSchedule, "div_factor", 3.0),
    (OneCycleSchedule, "final_div_factor", 2.0),
    (WSDSchedule, "decay", 0.5),
    (WSDSchedule, "shape", "linear"),
]


@pytest.mark.parametrize(("kind", "field", "value"), CHANGES)
def test_each_setting_changes_the_curve(kind: type[Schedule], field: str, value: object) -> None:
    assert curve(kind(), 50) != curve(kind(**{field: value}), 50)


def test_every_setting_is_changed_here_or_belongs_to_the_plateau() -> None:
    changed = {(kind, field) for kind, field, _ in CHANGES}
    declared = {(kind, field) for kind in CLASSES for field in kind.model_fields if field != "name"}
    plateau = {
        "monitor",
        "factor",
        "patience",
        "cooldown",
        "threshold",
        "min_scale",
    }  # tests/optimizers/test_plateau.py
    assert declared - changed == {(ReduceOnPlateauSchedule, field) for field in plateau}
