"""Reduce on plateau decides as PyTorch's does, from a small frozen state."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import ReduceLROnPlateau

from dlhpc.optimizers.plateau import Plateau, update
from dlhpc.spec.schedule import ReduceOnPlateauSchedule
from tests.optimizers.schedule_specs import PLATEAUS

FALLING_THEN_FLAT = [1.0, 0.8, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.5999, 0.59985, 0.3, 0.31, 0.32, 0.33, 0.34]


def scales(schedule: ReduceOnPlateauSchedule, values: list[float]) -> list[float]:
    state, found = Plateau(), []
    for value in values:
        state = update(schedule, state, value)
        found.append(state.scale)
    return found


def pytorch_scales(schedule: ReduceOnPlateauSchedule, values: list[float]) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = ReduceLROnPlateau(
        optimizer,
        mode="min" if schedule.monitor == "loss" else "max",
        factor=schedule.factor,
        patience=schedule.patience,
        cooldown=schedule.cooldown,
        threshold=schedule.threshold,
        min_lr=schedule.min_scale,
        eps=0.0,
    )
    found = []
    for value in values:
        scheduler.step(value)
        found.append(float(optimizer.param_groups[0]["lr"]))
    return found


VALUES = st.lists(
    st.one_of(st.floats(0.0, 4.0), st.sampled_from([0.5, 0.5001, 0.4999, 0.45, 0.55, math.nan, math.inf])), max_size=60
)


@given(schedule=PLATEAUS, values=VALUES)
def test_any_sequence_is_answered_as_by_pytorch(schedule: ReduceOnPlateauSchedule, values: list[float]) -> None:
    if schedule.monitor == "accuracy":
        values = [
            value for value in values if value != math.inf
        ]  # no accuracy is, and PyTorch would take it as the best
    assert scales(schedule, values) == pytorch_scales(schedule, values)


@given(schedule=PLATEAUS, values=VALUES)
def test_the_scale_only_falls_and_stays_in_range(schedule: ReduceOnPlateauSchedule, values: list[float]) -> None:
    found = [1.0, *scales(schedule, values)]
    assert all(schedule.min_scale <= later <= earlier for earlier, later in pairwise(found))


@given(schedule=PLATEAUS, values=VALUES, cut=st.integers(0, 60))
def test_a_state_written_as_json_goes_on_the_same(
    schedule: ReduceOnPlateauSchedule, values: list[float], cut: int
) -> None:
    state = Plateau()
    for value in values[:cut]:
        state = update(schedule, state, value)
    state = Plateau.model_validate_json(json.dumps(state.canonical(), allow_nan=False))
    found = []
    for value in values[cut:]:
        state = update(schedule, state, value)
        found.append(state.scale)
    assert found == scales(schedule, values)[cut:]


def test_a_plateau_halves_the_rate_after_the_patience() -> None:
    assert scales(ReduceOnPlateauSchedule(), [1.0] * 8) == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("monitor", "accuracy"),
        ("factor", 0.1),
        ("patience", 1),
        ("cooldown", 3),
        ("threshold", 0.2),
        ("min_scale", 0.6),
    ],
)
def test_each_setting_changes_the_answer(field: str, value: object) -> None:
    plain = ReduceOnPlateauSchedule()
    assert scales(plain, FALLING_THEN_FLAT) != scales(plain.model_copy(update={field: value}), FALLING_THEN_FLAT)


def test_the_state_itself_never_changes() -> None:
    state = Plateau()
    update(ReduceOnPlateauSchedule(patience=0), update(ReduceOnPlateauSchedule(), state, 1.0), 2.0)
    assert state == Plateau()
