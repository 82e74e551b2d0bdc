"""Small runs of the Flax learner, shared by its tests."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from dlhpc.data.batch import HostBatch
from dlhpc.engines.flax_learner import FlaxLearner
from dlhpc.ports import Controls, NamedArrays
from dlhpc.spec.run import RunSpec

ROWS = 8


def run_spec(model: dict[str, Any] | None = None, **changes: Any) -> RunSpec:
    shape: dict[str, Any] = {"architecture": "mlp", "input_shape": (3, 4, 1), "num_classes": 3, "hidden_sizes": (6,)}
    training = {"batch_size": ROWS, **changes.pop("training", {})}
    return RunSpec.model_validate(
        {"model": shape | {"dropout_rate": 0.25} | (model or {}), "training": training, **changes}
    )


def host_batch(steps: int = 1, start: int = 0, padding: int = 0) -> HostBatch:
    draws = [np.random.default_rng(start + step) for step in range(steps)]
    inputs = np.stack([draw.integers(0, 256, (ROWS, 3, 4, 1), dtype=np.uint8) for draw in draws])
    labels = np.stack([draw.integers(0, 3, ROWS).astype(np.int32) for draw in draws])
    if padding:
        labels[:, -padding:] = -1
    return HostBatch(inputs, labels, np.full(steps, ROWS - padding, np.int32))


def controls(steps: int = 1, start: int = 0, rate: float = 0.01, dropout: float = 0.25) -> Controls:
    return Controls(np.full(steps, rate), np.arange(start, start + steps), np.full(steps, dropout))


@cache
def learner_of(run: RunSpec) -> FlaxLearner:
    """Learners are constant: equal runs share one, and what it has compiled."""
    return FlaxLearner(run)


def after(run: RunSpec, dispatches: list[tuple[HostBatch, Controls]]) -> NamedArrays:
    """The training state from the seed after these dispatches."""
    learner = learner_of(run)
    state = learner.init(run.seed)
    for batch, control in dispatches:
        state, _ = learner.steps(state, learner.place(batch), control)
    return learner.snapshot(state, "training")


def assert_close(a: NamedArrays, b: NamedArrays, tolerance: float) -> None:
    assert a.keys() == b.keys()
    for name, array in a.items():
        np.testing.assert_allclose(array, b[name], rtol=0, atol=tolerance * max(1e-30, np.abs(b[name]).max()))
