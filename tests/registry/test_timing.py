import itertools

import numpy as np
import pytest

from dlhpc.registry.timing import LEAST_CALLS, WARM_UP, images, time_calls


class Clock:
    """Each call of the predictor takes the next of these seconds."""

    def __init__(self, seconds):
        self.seconds, self.now, self.sizes = iter(seconds), 0.0, []

    def predict(self, inputs):
        self.sizes.append(len(inputs))
        if len(self.sizes) > WARM_UP:
            self.now += next(self.seconds)

    def __call__(self):
        return self.now


def test_figures_are_those_of_the_calls():
    clock = Clock(itertools.chain([0.001] * 98, [0.003, 0.011]))
    found = time_calls(clock.predict, np.zeros((4, 2, 2, 1)), seconds=1, calls=100, clock=clock)
    assert found.calls == 100
    assert clock.sizes == [4] * (100 + WARM_UP)
    assert found.p50_ms == pytest.approx(1.0)
    assert found.p99_ms == pytest.approx(3.08)  # 0.003 and a hundredth of the way to 0.011
    assert found.throughput == pytest.approx(400 / 0.112)
    assert found.memory_mb > 10


def test_as_many_calls_as_fit_into_the_seconds():
    clock = Clock(itertools.repeat(0.25))
    assert time_calls(clock.predict, np.zeros((1, 1)), seconds=1, clock=clock).calls == 4


def test_slow_models_are_called_a_few_times_all_the_same():
    clock = Clock(itertools.repeat(9.0))
    assert time_calls(clock.predict, np.zeros((1, 1)), seconds=1, clock=clock).calls == LEAST_CALLS


def test_images_are_the_same_noise_in_both_types():
    pixels, floats = images(5, (4, 3, 2), "uint8"), images(5, (4, 3, 2), "float32")
    assert (pixels.shape, pixels.dtype, floats.dtype) == ((5, 4, 3, 2), np.uint8, np.float32)
    np.testing.assert_array_equal(np.round(floats * 255).astype(np.uint8), pixels)
    np.testing.assert_array_equal(images(2, (4, 3, 2), "uint8"), pixels[:2])
    assert len(np.unique(pixels)) > 50
    assert floats.min() >= 0
    assert floats.max() <= 1
