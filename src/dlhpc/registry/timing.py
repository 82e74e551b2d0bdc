"""The stopwatch: how long a predictor takes, call by call."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dlhpc.draws import NumpyWords, bits
from dlhpc.monitoring.memory import forget_peak, peak_resident
from dlhpc.ports import Predictor
from dlhpc.registry.benchmark_record import DType, Round

Clock = Callable[[], float]
WARM_UP = 2
"""Calls before those that count: what slept meanwhile wakes up."""
LEAST_CALLS = 3
_SEED = 0


def images(count: int, shape: Sequence[int], dtype: DType) -> npt.NDArray[Any]:
    """The same noise everywhere: (count, *shape), uint8, or the same as float32 in 0..1."""
    words = bits(NumpyWords(), _SEED, np.arange(count * math.prod(shape)))
    made = np.asarray(words & 255, np.uint8).reshape(count, *shape)
    return made if dtype == "uint8" else made.astype(np.float32) / np.float32(255)


def time_calls(
    predict: Predictor,
    inputs: npt.NDArray[Any],
    *,
    seconds: float,
    calls: int | None = None,
    clock: Clock = time.perf_counter,
) -> Round:
    """One round: `calls` calls, or as many as fit into the seconds, at least 3."""
    for _ in range(WARM_UP):
        predict(inputs)
    forget_peak()
    times: list[float] = []
    total = 0.0
    while len(times) < (calls or LEAST_CALLS) or (calls is None and total < seconds):
        start = clock()
        predict(inputs)
        times.append(clock() - start)
        total += times[-1]
    p50, p99 = (float(np.percentile(times, q)) for q in (50, 99))
    return Round(
        calls=len(times),
        p50_ms=p50 * 1e3,
        p99_ms=p99 * 1e3,
        throughput=len(inputs) * len(times) / total,
        memory_mb=peak_resident() / 1e6,
    )
