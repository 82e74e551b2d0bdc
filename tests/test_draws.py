"""The counter-based draws: same bits everywhere, uniform, and sensitive to every counter."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from dlhpc import draws
from dlhpc.draws import NUMPY, bits, mix, uniform


def fmix32(x: int) -> int:
    """MurmurHash3's finaliser on Python's own integers (Appleby 2011), as an independent reference."""
    x ^= x >> 16
    x = (x * 0x85EBCA6B) % 2**32
    x ^= x >> 13
    x = (x * 0xC2B2AE35) % 2**32
    return x ^ (x >> 16)


@pytest.mark.parametrize("value", [0, 1, 0x9E3779B9, 0x7FFFFFFF, 0xFFFFFFFF])
def test_mix_is_murmur3s_finaliser(value: int) -> None:
    assert int(mix(NUMPY, NUMPY.word(np.array([value])))[0]) == fmix32(value)


def test_chain_equals_reference_on_plain_integers() -> None:
    state = fmix32((3 + draws.GOLDEN) % 2**32)
    for counter in (7, 2**32 - 1, 12345):
        state = fmix32(((state * 0x01000193) + counter) % 2**32)
    assert int(bits(NUMPY, np.array([3]), 7, 2**32 - 1, 12345)[0]) == state


def test_values_are_uniform_and_below_one() -> None:
    rows, columns = np.arange(500)[:, None], np.arange(400)[None, :]
    values = uniform(NUMPY, 0, 11, 2, rows, columns)
    assert values.dtype == np.float32
    assert values.min() >= 0
    assert values.max() < 1
    assert stats.kstest(values.ravel(), "uniform").pvalue > 0.01
    assert abs(np.corrcoef(values[:-1].ravel(), values[1:].ravel())[0, 1]) < 0.01


@pytest.mark.parametrize("position", range(5))
def test_every_counter_changes_the_draw(position: int) -> None:
    counters = [1, 2, 3, np.arange(64), 5]
    changed = [c + 1 if i == position else c for i, c in enumerate(counters)]
    assert not np.array_equal(bits(NUMPY, *counters), bits(NUMPY, *changed))


def test_order_of_counters_matters() -> None:
    assert int(bits(NUMPY, np.array(1), 2)) != int(bits(NUMPY, np.array(2), 1))


def test_counters_wrap_at_32_bits_without_a_warning() -> None:
    assert int(bits(NUMPY, np.array([2**32 + 5]))[0]) == int(bits(NUMPY, np.array([5]))[0])
    assert int(bits(NUMPY, np.array([-1]))[0]) == int(bits(NUMPY, np.array([2**32 - 1]))[0])
    assert 0 <= int(bits(NUMPY, 3, 4)) < 2**32
