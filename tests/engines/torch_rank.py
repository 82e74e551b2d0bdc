"""Runs that several processes train together: each is followed, and what it saw is written.

    RANK=0 WORLD_SIZE=2 LOCAL_RANK=0 MASTER_ADDR=127.0.0.1 MASTER_PORT=... python -m tests.engines.torch_rank PLANS OUT

Each plan is trained from its seed up to step 4; its snapshot is then taken up by the same run or another one (of
another ZeRO stage), up to step 8.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dlhpc.backends import load_backend
from dlhpc.data.batch import HostBatch
from dlhpc.ports import Controls, NamedArrays
from dlhpc.spec.run import RunSpec
from tests.engines.two_processes import run_in_two_processes

HALF, END, PADDING = 4, 8, 3


@dataclass(frozen=True)
class Plan:
    """What is trained."""

    first: RunSpec
    """Up to step 4."""
    second: RunSpec
    """From there up to step 8."""
    poisoned: tuple[int, ...] = ()
    """Steps with a pixel that is not a number, in the first row."""

    def follow(self) -> dict[str, NamedArrays]:
        """The training state and what was seen, after both halves."""
        half = follow(self.first, None, HALF, self.poisoned)
        end = follow(self.second, half[0], END, self.poisoned)
        return {"half": {**half[0], **half[1]}, "end": {**end[0], **end[1]}}


def in_two_processes(plans: dict[str, Plan], folder: Path, checkout: Path) -> dict[str, dict[str, NamedArrays]]:
    """Follow the plans in two processes, which must see the same; plan -> moment -> arrays."""
    rows = {
        name: [plan.first.canonical(), plan.second.canonical(), list(plan.poisoned)] for name, plan in plans.items()
    }
    (folder / "plans.json").write_text(json.dumps(rows))
    limit_s = 240.0 + 10.0 * len(plans)  # many times what an idle machine needs
    arguments = [str(folder / "plans.json"), str(folder)]
    run_in_two_processes("tests.engines.torch_rank", arguments, checkout, timeout=limit_s)
    first, second = (dict(np.load(folder / f"{rank}.npz")) for rank in range(2))
    assert first.keys() == second.keys()
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name], err_msg=name)
    results: dict[str, dict[str, dict[str, Any]]] = {name: {"half": {}, "end": {}} for name in plans}
    for key, array in first.items():
        plan, moment, name = key.split("|")
        results[plan][moment][name] = array
    return results  # type: ignore[return-value]


def make_batch(run: RunSpec, step: int, steps: int, rank: int, world_size: int) -> HostBatch:
    """This process's rows of random batches whose last rows are padding: the processes have unequal real rows."""
    size, shape, classes = run.training.batch_size, run.model.input_shape, run.model.num_classes
    assert shape is not None
    assert classes is not None
    draws = [np.random.default_rng(number) for number in range(step, step + steps)]
    inputs = np.stack([draw.integers(0, 256, (size, *shape), dtype=np.uint8) for draw in draws])
    labels = np.stack([draw.integers(0, classes, size).astype(np.int32) for draw in draws])
    labels[:, size - PADDING :] = -1
    share = size // world_size
    rows = slice(rank * share, (rank + 1) * share)
    return HostBatch(inputs[:, rows], labels[:, rows], np.full(steps, size - PADDING, np.int32), rank * share)


def controls(run: RunSpec, step: int, steps: int) -> Controls:
    """The same learning rate and dropout at every step."""
    ones = np.ones(steps)
    return Controls(ones * run.training.learning_rate, np.arange(step, step + steps), ones * run.model.dropout_rate)


def poison(batch: HostBatch, step: int, poisoned: tuple[int, ...]) -> HostBatch:
    """The batch of steps from `step` on with NaN in the global first row of some steps."""
    inputs = (batch.inputs / np.float32(255.0)).astype(np.float32)
    for index in range(len(batch.counts)):
        if step + index in poisoned and batch.first_row == 0:
            inputs[index, 0, 0, 0, 0] = np.nan
    return replace(batch, inputs=inputs)


def follow(
    run: RunSpec, start: NamedArrays | None, stop: int, poisoned: tuple[int, ...] = ()
) -> tuple[NamedArrays, NamedArrays]:
    """Train up to step `stop`, two steps a dispatch: the training state, and losses, correct rows and evaluation."""
    learner = load_backend("torch").learner(run)
    rank, world_size = learner.rank, learner.world_size
    state = learner.init(run.seed) if start is None else learner.restore(start)
    losses: list[float] = []
    corrects: list[float] = []
    flags: list[float] = []
    for step in range(0 if start is None else int(start["counter/consumed"]), stop, 2):
        batch = make_batch(run, step, 2, rank, world_size)
        if poisoned:
            batch = poison(batch, step, poisoned)
        state, metrics = learner.steps(state, learner.place(batch), controls(run, step, 2))
        losses += [float(loss) for loss in metrics["loss"]]
        corrects += [float(correct) for correct in metrics["correct"]]
        flags += [float(flag) for flag in metrics.get("non_finite", ())]
    held_out = learner.evaluate(state, learner.place(make_batch(run, 1000, 1, rank, world_size)))
    sums = [float(held_out[key]) for key in ("loss_sum", "correct", "count")]
    agreed = [float(learner.agree(10 + rank))]
    snapshot = learner.snapshot(state, "training")
    model = {f"model:{name}": array for name, array in learner.snapshot(state, "model").items()}
    learner.close()
    seen = {"loss": losses, "correct": corrects, "non_finite": flags, "evaluation": sums, "agreed": agreed}
    return snapshot, {name: np.array(values) for name, values in seen.items()} | model


def main(plans_file: Path, folder: Path) -> None:
    """Follow every plan of the file."""
    results: dict[str, Any] = {}
    for name, (first, second, poisoned) in json.loads(plans_file.read_text()).items():
        plan = Plan(RunSpec.model_validate(first), RunSpec.model_validate(second), tuple(poisoned))
        for moment, arrays in plan.follow().items():
            results |= {f"{name}|{moment}|{key}": array for key, array in arrays.items()}
    np.savez(folder / f"{os.environ['RANK']}.npz", **results)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
