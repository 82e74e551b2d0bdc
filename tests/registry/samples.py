"""Small real artifacts, made without training."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
from scipy import special

from dlhpc.backends import load_backend
from dlhpc.ports import Preprocessing
from dlhpc.registry.artifact import Artifact, new_artifact
from dlhpc.spec.data import SyntheticSpec
from dlhpc.spec.model import MLPSpec
from dlhpc.spec.run import RunSpec
from dlhpc.weights.init import initial_weights
from dlhpc.weights.table import param_table

CLASSES = ("cat", "dog", "eel")


def sample_run(seed: int = 0, **changes: Any) -> RunSpec:
    """A resolved run over images of 4 x 4 x 1 and three classes."""
    model = MLPSpec(input_shape=(4, 4, 1), num_classes=3, hidden_sizes=(5,))
    data = SyntheticSpec(image_shape=(4, 4, 1), num_classes=3, num_examples=200, mean=(0.25,), std=(0.75,))
    return RunSpec(**{"seed": seed, "model": model, "data": data, **changes})


def sample(seed: int = 0, **changes: Any) -> Artifact:
    """An artifact of first weights: another seed is another version."""
    run = sample_run(seed, **changes)
    # The checkout's state is part of a version: two processes must agree on these, whatever is edited meanwhile.
    with patch("dlhpc.registry.artifact.code_version", return_value=None):
        made = new_artifact(
            run,
            initial_weights(param_table(run.model), seed),
            classes=CLASSES,
            metrics={"accuracy": 0.5 + seed / 1000, "loss": 1.0},
            data_fingerprint="ab" * 32,
            load_backend=numpy_backend if isinstance(run.model, MLPSpec) else load_backend,
        )
    return replace(made, load_backend=load_backend)


def numpy_backend(_: str) -> Any:
    """A framework that starts at once: processes that only publish need no other."""
    return SimpleNamespace(predictor=numpy_predictor)


def numpy_predictor(model: MLPSpec, weights: Any, preprocessing: Preprocessing) -> Any:
    """An MLP of gelu layers in numpy, written out once more."""

    def predict(inputs: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        x = (inputs / 255 - preprocessing.mean) / preprocessing.std
        x = x.reshape(len(inputs), -1)
        for number in range(len(model.hidden_sizes)):
            x = x @ weights[f"dense_{number}/kernel"] + weights[f"dense_{number}/bias"]
            x = x * special.ndtr(x)
        return special.softmax(x @ weights["head/kernel"] + weights["head/bias"], axis=1).astype(np.float32)

    return predict
