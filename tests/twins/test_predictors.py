"""A model trained in one framework and served in the other gives the same classes on every held-out digit."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from dlhpc.backends import load_backend
from dlhpc.data.batch import HostBatch
from dlhpc.ports import Controls, NamedArrays, Preprocessing
from dlhpc.spec.run import RunSpec
from tests.twins.runs import learner

BATCH, EPOCHS = 64, 20
MODELS: dict[str, dict[str, Any]] = {
    "mlp": {"architecture": "mlp", "hidden_sizes": (64,), "dropout_rate": 0.1, "normalization": "layer"},
    "cnn": {"architecture": "cnn", "channels": (8, 16), "strides": (1, 2), "hidden_sizes": (32,)},
}


def run_spec(model: str) -> RunSpec:
    shape = {"input_shape": (8, 8, 1), "num_classes": 10}
    return RunSpec.model_validate({"model": MODELS[model] | shape, "training": {"batch_size": BATCH}})


@cache
def digits() -> tuple[Any, Any]:
    """All 1,797 images as uint8 (N, 8, 8, 1), and their labels."""
    source = load_digits()
    return np.round(source.images * (255 / 16)).astype(np.uint8)[..., None], source.target.astype(np.int32)


def trained(backend: str, run: RunSpec) -> NamedArrays:
    """Weights after some passes over the first half."""
    inputs, labels = digits()
    with learner(backend, run) as made:
        state, step = made.init(0), 0
        for epoch in range(EPOCHS):
            order = np.random.default_rng(epoch).permutation(898)
            for start in range(0, 898 - BATCH, BATCH):
                rows = order[start : start + BATCH]
                batch = HostBatch(inputs[rows][None], labels[rows][None], np.array([BATCH], np.int32))
                controls = Controls(np.array([0.003]), np.array([step]), np.array([run.model.dropout_rate]))
                state, _ = made.steps(state, made.place(batch), controls)
                step += 1
        return made.snapshot(state, "model")


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("trainer", ["flax", "torch"])
def test_both_frameworks_give_the_same_classes_on_all_test_digits(trainer: str, model: str) -> None:
    run = run_spec(model)
    weights = trained(trainer, run)
    inputs, labels = (array[898:] for array in digits())
    flax, torch = (
        load_backend(server).predictor(run.model, weights, Preprocessing(run.data.mean, run.data.std))(inputs)
        for server in ("flax", "torch")
    )
    assert len(inputs) == 899
    np.testing.assert_array_equal(flax.argmax(axis=1), torch.argmax(axis=1))
    assert np.max(np.abs(flax - torch)) <= 1e-5
    assert np.mean(flax.argmax(axis=1) == labels) > 0.9
