"""Averages between two lines of history."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from dlhpc.training.window import AHEAD, IN_VAIN, Window


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class OnDevice:
    """A metric that notes when it is fetched."""

    def __init__(self, value: Sequence[float]) -> None:
        self.value, self.fetched = value, False

    def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
        self.fetched = True
        return np.array(self.value, dtype=dtype)  # type: ignore[call-overload, no-any-return]


def add(
    window: Window,
    loss: Sequence[float],
    correct: Sequence[float],
    counts: Sequence[int],
    non_finite: Sequence[int] | None = None,
) -> OnDevice:
    device = OnDevice(loss)
    policy = {} if non_finite is None else {"non_finite": np.array(non_finite)}
    window.add({"loss": device, "correct": np.array(correct), **policy}, np.array(counts, np.int32))
    return device


def test_averages_weigh_steps_by_their_examples() -> None:
    clock = Clock()
    window = Window(0, clock)
    add(window, [1.0, 2.0], [3, 4], [8, 8])
    add(window, [4.0], [1], [4])
    clock.now += 2.0
    averages = window.close(3)
    assert averages.loss == pytest.approx((8 * 1 + 8 * 2 + 4 * 4) / 20)
    assert averages.accuracy == pytest.approx(8 / 20)
    assert averages.examples_per_second == pytest.approx(10.0)
    assert averages.first_bad_step is None
    assert window.first == 3


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_first_bad_step_is_named(bad: float) -> None:
    window = Window(10, Clock())
    add(window, [1.0, 1.0], [0, 0], [1, 1])
    add(window, [1.0, bad], [0, 0], [1, 1])
    add(window, [bad, 1.0], [0, 0], [1, 1])
    assert window.close(16).first_bad_step == 13
    add(window, [1.0], [0], [1])
    assert window.close(17).first_bad_step is None


def test_a_loss_that_a_policy_dealt_with_is_left_out_of_the_averages() -> None:
    clock = Clock()
    window = Window(0, clock, skips=True)
    add(window, [1.0, np.nan], [3, 0], [8, 8], [0, 1])
    add(window, [2.0, 4.0], [4, 1], [8, 4], [1, 0])  # a finite loss counts, whatever its gradients
    clock.now += 2.0
    averages = window.close(4)
    assert averages.loss == pytest.approx((8 * 1 + 8 * 2 + 4 * 4) / 20)
    assert averages.accuracy == pytest.approx(8 / 20)
    assert averages.examples_per_second == pytest.approx(28 / 2)
    assert (averages.non_finite_steps, averages.first_bad_step) == (2, None)
    add(window, [1.0], [1], [8], [0])
    assert window.close(5).non_finite_steps == 0


def test_a_loss_that_no_policy_dealt_with_is_bad_still() -> None:
    window = Window(0, Clock(), skips=True)
    add(window, [np.nan, np.nan], [0, 0], [8, 8], [1, 0])
    averages = window.close(2)
    assert averages.first_bad_step == 1
    assert np.isnan(averages.loss)


def test_a_window_of_nothing_but_skipped_steps_has_no_averages() -> None:
    window = Window(0, Clock(), skips=True)
    add(window, [np.nan, np.inf], [1, 1], [8, 8], [1, 1])
    averages = window.close(2)
    assert np.isnan([averages.loss, averages.accuracy]).all()
    assert (averages.non_finite_steps, averages.first_bad_step) == (2, None)


@pytest.mark.parametrize("size", [1, 4, IN_VAIN, 2 * IN_VAIN])
def test_a_window_and_ten_steps_in_vain_are_the_end(size: int) -> None:
    window = Window(100, Clock(), skips=True)
    add(window, [1.0] * 5, [1] * 5, [8] * 5, [0, 0, 1, 1, 1])
    firsts = [window.close(105).first_bad_step]
    for start in range(105, 105 + 2 * IN_VAIN, size):
        add(window, [1.0] * size, [1] * size, [8] * size, [1] * size)
        firsts.append(window.close(start + size).first_bad_step)
        if firsts[-1] is not None:
            break
    assert firsts[:-1] == [None] * (len(firsts) - 1)
    assert firsts[-1] == 102
    assert len(firsts) - 1 == -(-max(IN_VAIN - 3, size) // size)


def test_one_step_that_came_to_something_gives_new_credit() -> None:
    window = Window(0, Clock(), skips=True)
    for step in range(0, 10 * IN_VAIN, IN_VAIN):
        add(window, [1.0] * IN_VAIN, [1] * IN_VAIN, [8] * IN_VAIN, [1] * 4 + [0] + [1] * (IN_VAIN - 5))
        assert window.close(step + IN_VAIN).first_bad_step is None


@pytest.mark.parametrize(("loss", "expected"), [(1.0, None), (np.nan, 0)])
def test_zeroed_gradients_are_in_vain_when_the_loss_is_lost_too(loss: float, expected: int | None) -> None:
    window = Window(0, Clock())
    add(window, [loss] * IN_VAIN, [1] * IN_VAIN, [8] * IN_VAIN, [1] * IN_VAIN)
    assert window.close(IN_VAIN).first_bad_step == expected


def test_nothing_is_fetched_until_many_dispatches_are_under_way() -> None:
    window = Window(0, Clock())
    devices = [add(window, [1.0], [0], [1]) for _ in range(AHEAD)]
    assert not any(device.fetched for device in devices)
    devices.append(add(window, [1.0], [0], [1]))
    assert [device.fetched for device in devices] == [True] + [False] * AHEAD
    window.close(AHEAD + 1)
    assert all(device.fetched for device in devices)


def test_time_outside_training_is_left_out() -> None:
    clock = Clock()
    window = Window(0, clock)
    clock.now += 1000.0  # an evaluation
    window.restart_clock()
    add(window, [1.0], [0], [6])
    clock.now += 2.0
    assert window.close(1).examples_per_second == pytest.approx(3.0)


def test_rate_of_the_whole_run_leaves_out_the_first_window_which_compiles() -> None:
    clock = Clock()
    window = Window(0, clock)
    assert window.examples_per_second == 0.0
    for seconds, expected in ((60.0, 0.1), (2.0, 3.0), (1.0, 4.0)):
        add(window, [1.0], [0], [6])
        clock.now += seconds
        window.close(window.first + 1)
        assert window.examples_per_second == pytest.approx(expected)
