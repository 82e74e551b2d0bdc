"""Averages between two lines of history."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from dlhpc.training.window import AHEAD, Window


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


def add(window: Window, loss: Sequence[float], correct: Sequence[float], counts: Sequence[int]) -> OnDevice:
    device = OnDevice(loss)
    window.add({"loss": device, "correct": np.array(correct)}, np.array(counts, np.int32))
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
