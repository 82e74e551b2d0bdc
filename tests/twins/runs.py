"""Whole learners of both frameworks on the same batches."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

from dlhpc.backends import load_backend
from dlhpc.data.batch import HostBatch
from dlhpc.optimizers.schedules import scale
from dlhpc.ports import Controls, Learner
from dlhpc.spec.run import RunSpec
from dlhpc.spec.schedule import WarmupCosineSchedule

ROWS, STEPS = 24, 200


def run_spec(**changes: Any) -> RunSpec:
    """A small run with everything on: dropout, smoothing, accumulation, layer norm, a learning-rate group."""
    run: dict[str, Any] = {
        "seed": 3,
        "model": {
            "architecture": "mlp",
            "input_shape": (6, 5, 2),
            "num_classes": 7,
            "hidden_sizes": (32, 16),
            "normalization": "layer",
            "dropout_rate": 0.2,
        },
        "optimizer": {"name": "adamw", "groups": [{"match": "head/*", "learning_rate_scale": 0.5}]},
        "data": {"source": "synthetic", "mean": (0.4, 0.6), "std": (0.5, 0.7)},
        "training": {
            "batch_size": ROWS,
            "precision": "float64",
            "gradient_accumulation": 2,
            "label_smoothing": 0.1,
            "learning_rate": 0.003,
        },
    }
    for section, values in changes.items():
        run[section] = {**run[section], **values}
    return RunSpec.model_validate(run)


def host_batch(run: RunSpec, step: int, steps: int = 1) -> HostBatch:
    """Steps [step, step + steps) of a stream that is a function of the step; every third batch has padding rows."""
    parts = [_one_batch(run, number) for number in range(step, step + steps)]
    inputs, labels = (np.stack(arrays) for arrays in zip(*parts, strict=True))
    return HostBatch(inputs, labels, (labels >= 0).sum(axis=1, dtype=np.int32))


@functools.cache
def _digits() -> Any:
    return load_digits(return_X_y=True)


def _one_batch(run: RunSpec, step: int) -> tuple[Any, Any]:
    assert run.model.input_shape is not None
    assert run.model.num_classes is not None
    draw = np.random.default_rng((11, step))
    if run.data.source == "digits":
        images, digits = _digits()
        rows = draw.choice(len(digits) // 2, ROWS, replace=False)
        return np.rint(images[rows].reshape(-1, 8, 8, 1) * 255 / 16).astype(np.uint8), digits[rows].astype(np.int32)
    labels = draw.integers(0, run.model.num_classes, ROWS).astype(np.int32)
    prototypes = np.random.default_rng(0).integers(0, 256, (run.model.num_classes, *run.model.input_shape))
    noise = draw.normal(0, 60, (ROWS, *run.model.input_shape))
    inputs = np.clip(prototypes[labels] + noise, 0, 255).astype(np.uint8)
    if step % 3 == 0:
        labels[-5:] = -1
    return inputs, labels


def controls(run: RunSpec, step: int, steps: int = 1) -> Controls:
    """A warmup and a cosine over 200 steps."""
    numbers = np.arange(step, step + steps)
    rates = [run.training.learning_rate * scale(WarmupCosineSchedule(), int(number), STEPS) for number in numbers]
    return Controls(np.array(rates), numbers, np.full(steps, run.model.dropout_rate))


@contextmanager
def learner(backend: str, run: RunSpec) -> Iterator[Learner[Any]]:
    """Of the framework, closed at the end."""
    made = load_backend(backend).learner(run)
    try:
        yield made
    finally:
        made.close()


def advance(made: Learner[Any], run: RunSpec, state: Any, start: int, stop: int) -> tuple[Any, list[float]]:
    """The state after the steps [start, stop), and their losses."""
    losses, k = [], run.training.steps_per_dispatch
    for step in range(start, stop, k):
        state, metrics = made.steps(state, made.place(host_batch(run, step, k)), controls(run, step, k))
        losses += [float(loss) for loss in metrics["loss"]]
    return state, losses
