"""How fast a model answers in-process: latency and throughput of each backend's predictor by batch size."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dlhpc.backends import load_backend
from dlhpc.ports import Predictor, Preprocessing
from dlhpc.spec.model import CNNSpec, MLPSpec, ModelSpec
from dlhpc.spec.run import Backend
from dlhpc.weights.init import initial_weights
from dlhpc.weights.table import param_table

IMAGE = (28, 28, 1)
CLASSES = 10
MODELS: dict[str, ModelSpec] = {
    "MLP": MLPSpec(num_classes=CLASSES, input_shape=IMAGE),
    "CNN": CNNSpec(num_classes=CLASSES, input_shape=IMAGE),
}


@dataclass(frozen=True)
class InferenceResult:
    """One model in one backend at one batch size; latencies in milliseconds a call."""

    backend: Backend
    model: str
    batch_size: int
    calls: int
    p50_ms: float
    p99_ms: float
    examples_per_s: float
    """At the median latency."""


def measure(backends: Sequence[Backend], batch_sizes: Sequence[int], *, calls: int) -> list[InferenceResult]:
    """Time every model in every backend; the backends take turns call by call, so both meet the same machine."""
    generator = np.random.default_rng(0)
    results = []
    for name, spec in MODELS.items():
        weights = initial_weights(param_table(spec), seed=0)
        predictors = {
            backend: load_backend(backend).predictor(spec, weights, Preprocessing((0.5,), (0.5,)))
            for backend in backends
        }
        for batch_size in batch_sizes:
            images = generator.integers(0, 256, (batch_size, *IMAGE), dtype=np.uint8)
            seconds: dict[Backend, list[float]] = {backend: [] for backend in backends}
            for call in range(calls + 3):
                for backend, predictor in predictors.items():
                    elapsed = _timed(predictor, images)
                    if call >= 3:  # the first calls compile and warm up
                        seconds[backend].append(elapsed)
            results += [_result(backend, name, batch_size, seconds[backend]) for backend in backends]
    return results


def _timed(predictor: Predictor, images: np.ndarray) -> float:
    start = time.perf_counter()
    predictor(images)
    return time.perf_counter() - start


def _result(backend: Backend, model: str, batch_size: int, seconds: list[float]) -> InferenceResult:
    p50, p99 = (float(np.percentile(seconds, q)) for q in (50, 99))
    return InferenceResult(
        backend, model, batch_size, len(seconds), round(p50 * 1e3, 4), round(p99 * 1e3, 4), round(batch_size / p50, 1)
    )
