"""One process of a training run of several, for test_torch_deepspeed.py: follows every ZeRO stage, writes what it saw.

    RANK=0 WORLD_SIZE=2 LOCAL_RANK=0 MASTER_ADDR=127.0.0.1 MASTER_PORT=... python torch_rank.py RUNS.json OUT.npz

Each run is trained from its seed up to step 4; its snapshot is then taken up by the NEXT run (another ZeRO stage), up
to step 8.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from dlhpc.backends import load_backend
from dlhpc.data.batch import HostBatch
from dlhpc.ports import Controls, NamedArrays
from dlhpc.spec.run import RunSpec

HALF, END, PADDING = 4, 8, 3


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


def follow(run: RunSpec, start: NamedArrays | None, stop: int) -> tuple[NamedArrays, NamedArrays]:
    """Train up to step `stop`, two steps a dispatch: the training state, and losses, correct rows and evaluation."""
    learner = load_backend("torch").learner(run)
    rank, world_size = learner.rank, learner.world_size
    state = learner.init(run.seed) if start is None else learner.restore(start)
    losses: list[float] = []
    corrects: list[float] = []
    for step in range(0 if start is None else int(start["counter/consumed"]), stop, 2):
        batch = make_batch(run, step, 2, rank, world_size)
        state, metrics = learner.steps(state, learner.place(batch), controls(run, step, 2))
        losses += [float(loss) for loss in metrics["loss"]]
        corrects += [float(correct) for correct in metrics["correct"]]
    held_out = learner.evaluate(state, learner.place(make_batch(run, 1000, 1, rank, world_size)))
    sums = [float(held_out[key]) for key in ("loss_sum", "correct", "count")]
    agreed = [float(learner.agree(10 + rank))]
    snapshot = learner.snapshot(state, "training")
    learner.close()
    seen = {"loss": losses, "correct": corrects, "evaluation": sums, "agreed": agreed}
    return snapshot, {name: np.array(values) for name, values in seen.items()}


def main(runs_file: Path, out: Path) -> None:
    """Follow every run of the file."""
    runs = [RunSpec.model_validate(run) for run in json.loads(runs_file.read_text())]
    results: dict[str, Any] = {}
    for number, run in enumerate(runs):
        half = follow(run, None, HALF)
        end = follow(runs[(number + 1) % len(runs)], half[0], END)
        for moment, parts in (("half", half), ("end", end)):
            for part in parts:
                results |= {f"{number}|{moment}|{name}": array for name, array in part.items()}
    np.savez(out, **results)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
