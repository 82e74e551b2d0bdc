"""Runs for the tests of what a learner does to gradients: any combination of options, and small exact ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from dlhpc.data.batch import HostBatch
from dlhpc.engines import torch_deepspeed
from dlhpc.engines.torch_learner import TorchLearner
from dlhpc.ports import Controls, NamedArrays
from dlhpc.spec.run import RunSpec

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adamw": {"name": "adamw"},
    "lion": {"name": "lion"},
    "adan": {"name": "adan"},
    "adabelief": {"name": "adabelief"},
    "gnb": {"name": "sophia", "interval": 3},
    "hutchinson": {"name": "sophia", "estimator": "hutchinson", "interval": 3},
}
CLIPPINGS: dict[str, dict[str, Any]] = {
    "unclipped": {"name": "none"},
    "global": {"name": "global_norm", "max_norm": 0.2},
    "adaptive": {"name": "adaptive", "factor": 0.02, "exempt": ["head/*"]},
}


def run_spec(optimizer: str, stage: int = 0, clipping: str = "unclipped", **training: Any) -> RunSpec:
    """A CNN whose sizes no number of processes divides; parameters are really cut under ZeRO-3."""
    return RunSpec.model_validate(
        {
            "backend": "torch",
            "seed": 2**31 - 5,
            "model": {
                "architecture": "cnn",
                "num_classes": 5,
                "input_shape": (6, 5, 1),
                "channels": (3, 5),
                "strides": (2,),
                "hidden_sizes": (7,),
                "normalization": "layer",
                "dropout_rate": 0.3,
            },
            "optimizer": {**OPTIMIZERS[optimizer], "groups": [{"match": "head/*", "learning_rate_scale": 0.5}]},
            "training": {
                "batch_size": 16,
                "gradient_accumulation": 2,
                "label_smoothing": 0.1,
                "learning_rate": 0.01,
                "clipping": CLIPPINGS[clipping],
                **training,
            },
            "distributed": {"zero_stage": stage} | ({"persistence_threshold": 0} if stage == 3 else {}),
        }
    )


ENGINES = ("plain", "zero0", "zero1", "zero2", "zero3")
ROWS = 8


@contextmanager
def opened(engine: str) -> Iterator[Callable[[RunSpec], TorchLearner]]:
    """Makes learners on the named engine, in one process, and closes them."""
    made = []

    def make(run: RunSpec) -> TorchLearner:
        stage = 0 if engine == "plain" else int(engine[-1])
        distributed = {"zero_stage": stage} | ({"persistence_threshold": 0} if stage == 3 else {})
        made.append(TorchLearner(RunSpec.model_validate({**run.model_dump(), "distributed": distributed})))
        return made[-1]

    with pytest.MonkeyPatch.context() as patch:
        if engine == "plain":
            patch.setattr(torch_deepspeed, "available", lambda: False)
        try:
            yield make
        finally:
            for learner in made:
                learner.close()
    assert not torch.distributed.is_initialized()


def small_run(optimizer: str = "lion", clipping: str = "unclipped", **training: Any) -> RunSpec:
    """A tiny MLP with dropout and label smoothing, whose every parameter moves."""
    return RunSpec.model_validate(
        {
            "backend": "torch",
            "seed": 11,
            "model": {
                "architecture": "mlp",
                "num_classes": 3,
                "input_shape": (2, 2, 1),
                "hidden_sizes": (3,),
                "activation": "silu",
                "dropout_rate": 0.25,
            },
            "optimizer": {**OPTIMIZERS[optimizer], "weight_decay": 0.1},
            "data": {"source": "synthetic", "mean": (0.0,), "std": (1.0,)},
            "training": {"batch_size": ROWS, "label_smoothing": 0.2, "clipping": CLIPPINGS[clipping], **training},
        }
    )


def small_batch(run: RunSpec, steps: int = 1, start: int = 0, padding: int = 3) -> HostBatch:
    """Float inputs in 0..1; the last rows are padding."""
    draws = [np.random.default_rng(start + step) for step in range(steps)]
    inputs = np.stack([draw.random((ROWS, *(run.model.input_shape or ())), np.float32) for draw in draws])
    labels = np.stack([draw.integers(0, 3, ROWS).astype(np.int32) for draw in draws])
    labels[:, ROWS - padding :] = -1
    return HostBatch(inputs, labels, np.full(steps, ROWS - padding, np.int32))


def small_controls(steps: int = 1, start: int = 0, rate: float = 0.01) -> Controls:
    """The same rate and dropout at every step."""
    return Controls(np.full(steps, rate), np.arange(start, start + steps), np.full(steps, 0.25))


def train(learner: TorchLearner, run: RunSpec, start: NamedArrays | None, steps: range) -> tuple[Any, NamedArrays]:
    """The state and its snapshot after these steps, one a dispatch."""
    state = learner.init(run.seed) if start is None else learner.restore(start)
    for step in steps:
        state, _ = learner.steps(state, learner.place(small_batch(run, start=step)), small_controls(start=step))
    return state, learner.snapshot(state, "training")
