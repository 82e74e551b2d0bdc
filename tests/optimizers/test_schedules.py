"""Schedules are plain functions of the step."""

from __future__ import annotations

import math

import pytest

from dlhpc.optimizers.schedules import scale
from dlhpc.spec.training import ConstantSchedule, WarmupCosineSchedule


def test_constant_never_changes() -> None:
    assert {scale(ConstantSchedule(), step, 100) for step in range(100)} == {1.0}


def test_warmup_rises_linearly_to_the_peak_and_then_follows_the_cosine() -> None:
    schedule = WarmupCosineSchedule(warmup=0.1, final_scale=0.2)
    values = [scale(schedule, step, 100) for step in range(100)]
    assert values[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    expected = [0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi * (i - 10) / 90)) for i in range(10, 100)]
    assert values[10:] == pytest.approx(expected)
    assert max(values) == 1.0


def test_without_warmup_the_peak_comes_first() -> None:
    assert scale(WarmupCosineSchedule(warmup=0.0), 0, 10) == 1.0


@pytest.mark.parametrize(("field", "value"), [("warmup", 0.5), ("final_scale", 0.9)])
def test_each_setting_changes_the_curve(field: str, value: float) -> None:
    plain = WarmupCosineSchedule()
    changed = plain.model_copy(update={field: value})
    assert [scale(plain, s, 50) for s in range(50)] != [scale(changed, s, 50) for s in range(50)]


def test_a_run_of_one_step_and_a_step_past_the_end_are_finite() -> None:
    assert scale(WarmupCosineSchedule(), 0, 1) == 1.0
    assert scale(WarmupCosineSchedule(final_scale=0.3), 500, 100) == pytest.approx(0.3)
