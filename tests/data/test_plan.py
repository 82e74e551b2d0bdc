"""Orders of epochs."""

from __future__ import annotations

import numpy as np
import pytest

from dlhpc.data.plan import Plan
from dlhpc.errors import UsageError


def epoch(plan, number):
    steps = plan.steps_per_epoch
    return np.concatenate([plan.positions(step) for step in range(number * steps, (number + 1) * steps)])


@pytest.mark.parametrize(("size", "batch", "steps"), [(10, 3, 4), (9, 3, 3), (1, 5, 1), (812, 64, 13)])
def test_each_epoch_sees_every_example_once(size, batch, steps):
    plan = Plan(size, batch, seed=3)
    assert plan.steps_per_epoch == steps
    for number in (0, 1, 7):
        assert (np.sort(epoch(plan, number)) == np.arange(size)).all()
    assert [len(plan.positions(step)) for step in range(steps)] == [plan.count(step) for step in range(steps)]
    assert sum(plan.count(step) for step in range(steps)) == size


def test_a_step_is_a_function_of_seed_and_number():
    plan = Plan(100, 7, seed=5)
    forwards = [plan.positions(step) for step in range(60)]
    for step in (59, 0, 31, 15, 14):
        assert (Plan(100, 7, seed=5).positions(step) == forwards[step]).all()
        assert (plan.positions(step) == forwards[step]).all()
    assert plan.epoch(14) == 0
    assert plan.epoch(15) == 1


def test_epochs_and_seeds_have_different_orders():
    orders = [epoch(Plan(50, 7, seed), number) for seed in (0, 1) for number in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4


def test_orders_are_uniform():
    firsts = [Plan(8, 8, seed).positions(0)[0] for seed in range(4000)]
    assert np.bincount(firsts, minlength=8) == pytest.approx(500, rel=0.15)


def test_the_order_is_not_to_be_written_to():
    with pytest.raises(ValueError, match="read-only"):
        Plan(10, 5, 0).positions(0)[0] = 3


@pytest.mark.parametrize(("size", "batch"), [(0, 4), (4, 0)])
def test_nothing_to_plan_is_refused(size, batch):
    with pytest.raises(UsageError, match="needs examples"):
        Plan(size, batch, 0)


def test_steps_count_from_zero():
    with pytest.raises(UsageError, match="count from 0"):
        Plan(4, 2, 0).positions(-1)
