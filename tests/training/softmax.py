"""Softmax regression in numpy: an independent learner, small enough to be checked by eye, and its runs."""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dlhpc.data.batch import HostBatch
from dlhpc.data.parted import PartedDataset
from dlhpc.data.pipeline import TrainingBatches, evaluation_batches
from dlhpc.data.plan import Plan
from dlhpc.data.sources import open_dataset
from dlhpc.optimizers.rules import Scalars, bind
from dlhpc.ports import Controls, Metrics, NamedArrays
from dlhpc.spec.data import SyntheticSpec
from dlhpc.spec.model import MLPSpec
from dlhpc.spec.run import RunSpec
from dlhpc.spec.training import TrainingSpec
from dlhpc.training.checkpoint import CheckpointStore
from dlhpc.training.loop import HeldOut
from dlhpc.weights.init import initial_weights
from dlhpc.weights.state_table import APPLIED, CONSUMED, param_key, slot_key
from dlhpc.weights.table import param_table

State = dict[str, Any]


@dataclass
class Group:
    """Processes that agree: here, threads."""

    size: int
    barrier: threading.Barrier = field(init=False)
    values: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.barrier = threading.Barrier(self.size, timeout=60)
        self.values = [0] * self.size

    def greatest(self, rank: int, value: int) -> int:
        self.values[rank] = value
        self.barrier.wait()
        greatest = max(self.values)
        self.barrier.wait()
        return greatest


class SoftmaxLearner:
    """Every member of a group sees whole batches, so that no gradients need to be exchanged."""

    def __init__(self, run: RunSpec, group: Group | None = None, rank: int = 0) -> None:
        self.rank, self.world_size = rank, 1 if group is None else group.size
        self._group = group
        self._run = run
        self._table = param_table(run.model)
        self._rule = bind(run.optimizer)
        self.seen: list[Controls] = []
        """The controls of every dispatch."""
        self.poison_at: int | None = None
        """Step from which the loss is NaN; under the policies skip and zero, the gradients too."""
        self.poison_until = sys.maxsize
        """Step from which they are finite again."""

    def init(self, seed: int) -> State:
        params = initial_weights(self._table, seed, np.float64)
        state: State = {param_key(row.name): params[row.name] for row in self._table}
        for slot in self._rule.slots:
            state |= {slot_key(slot, row.name): np.zeros(row.shape) for row in self._table}
        return state | {CONSUMED: np.array(0), APPLIED: np.array(0)}

    def place(self, batch: HostBatch) -> HostBatch:
        return HostBatch(batch.inputs.copy(), batch.labels.copy(), batch.counts.copy(), batch.first_row)

    def steps(self, state: State, batch: HostBatch, controls: Controls) -> tuple[State, Metrics]:
        self.seen.append(controls)
        losses, corrects, non_finite = [], [], []
        deals_with_it = self._run.training.non_finite_gradients != "raise"
        for k in range(len(batch.counts)):
            x, y, rows = self._rows(batch, k)
            p = self._probabilities(state, x)
            losses.append(-np.log(p[rows, y]).sum() / batch.counts[k])
            corrects.append((p.argmax(1) == y).sum())
            p[rows, y] -= 1
            gradients = {"head/kernel": x.T @ p / batch.counts[k], "head/bias": p.sum(0) / batch.counts[k]}
            poisoned = self.poison_at is not None and self.poison_at <= controls.step[k] < self.poison_until
            losses[-1] = np.nan if poisoned else losses[-1]
            non_finite.append(int(poisoned))
            if poisoned and deals_with_it:
                state = state | {CONSUMED: state[CONSUMED] + 1}
            else:
                state = self._update(state, gradients, float(controls.learning_rate[k]))
        metrics = {"loss": np.array(losses), "correct": np.array(corrects), "count": batch.counts}
        return state, metrics | ({"non_finite": np.array(non_finite)} if deals_with_it else {})

    def _update(self, state: State, gradients: dict[str, Any], lr: float) -> State:
        new: State = {CONSUMED: state[CONSUMED] + 1, APPLIED: state[APPLIED] + 1}
        for row in self._table:
            old = tuple(state[slot_key(slot, row.name)] for slot in self._rule.slots)
            scalars = Scalars(lr, self._run.optimizer.weight_decay * row.decay, int(new[APPLIED]))
            slots, x = self._rule.rule(np, gradients[row.name], old, state[param_key(row.name)], scalars)
            new[param_key(row.name)] = x
            new |= {slot_key(slot, row.name): value for slot, value in zip(self._rule.slots, slots, strict=True)}
        return new

    def _rows(self, batch: HostBatch, k: int) -> tuple[Any, Any, Any]:
        real = batch.labels[k] >= 0
        x = (batch.inputs[k][real].reshape(real.sum(), -1) / 255 - 0.5) / 0.5
        return x, batch.labels[k][real], np.arange(real.sum())

    def _probabilities(self, state: State, x: Any) -> Any:
        z = x @ state[param_key("head/kernel")] + state[param_key("head/bias")]
        e = np.exp(z - z.max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)

    def evaluate(self, state: State, batch: HostBatch) -> Metrics:
        x, y, rows = self._rows(batch, 0)
        p = self._probabilities(state, x)
        return {"loss_sum": -np.log(p[rows, y]).sum(), "correct": (p.argmax(1) == y).sum(), "count": len(y)}

    def snapshot(self, state: State, what: Literal["model", "training"]) -> NamedArrays:
        if what == "training":
            return {name: np.array(array) for name, array in state.items()}
        return {row.name: state[param_key(row.name)].copy() for row in self._table}

    def restore(self, source: NamedArrays) -> State:
        return {name: np.array(array) for name, array in source.items()}

    def agree(self, value: int) -> int:
        return value if self._group is None else self._group.greatest(self.rank, value)

    def close(self) -> None:
        """Nothing to give back."""


def make_run(**training: Any) -> RunSpec:
    """A run over 100 training examples (7 steps an epoch) and some to validate on."""
    settings: dict[str, Any] = {"num_epochs": 3, "batch_size": 16, "learning_rate": 0.1, "log_every": 5} | training
    return RunSpec(
        model=MLPSpec(hidden_sizes=(), num_classes=3, input_shape=(4, 3, 1)),
        data=SyntheticSpec(image_shape=(4, 3, 1), num_classes=3, num_examples=128, noise=0.2),
        training=TrainingSpec(**settings),
    )


def open_data(run: RunSpec) -> PartedDataset:
    return open_dataset(run.data, run.model)


def make_batches(run: RunSpec) -> TrainingBatches:
    data = open_data(run)
    plan = Plan(data.info.sizes["train"], run.training.batch_size, run.seed)
    return TrainingBatches(data, run.data, plan, seed=run.seed, steps_per_dispatch=run.training.steps_per_dispatch)


def make_held_out(run: RunSpec) -> HeldOut:
    data = open_data(run)
    return lambda: evaluation_batches(data, "validation", run.training.batch_size)


def make_store(folder: Path, run: RunSpec) -> CheckpointStore:
    return CheckpointStore(folder, run, data_fingerprint="f" * 64, world_size=1, environment={"backend": "numpy"})
