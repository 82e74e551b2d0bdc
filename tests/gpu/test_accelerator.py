"""On an accelerator, with the frameworks of that machine: no DeepSpeed, Ray or network is needed."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from dlhpc import api
from dlhpc.data.sources import open_dataset
from dlhpc.spec.run import Backend

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize(
    "probe",
    [
        "import jax; assert jax.default_backend() == 'gpu', jax.devices()",
        "import torch; assert torch.cuda.is_available(), torch.__version__",
    ],
)
def test_the_framework_sees_the_accelerator(probe: str) -> None:
    subprocess.run([sys.executable, "-c", probe], check=True)


@pytest.mark.parametrize(
    ("model", "backend", "other"), [("FlaxMLP", "flax", "torch"), ("TorchDeepSpeedCNN", "torch", "flax")]
)
def test_trains_and_predicts_the_same_in_the_other_framework(model: str, backend: Backend, other: Backend) -> None:
    run = api.load_run(None, overrides=[f"model.name={model}", "data.source=digits", "training.num_epochs=10"])
    artifact = api.train(run)
    assert artifact.manifest.run.backend == backend
    assert artifact.manifest.metrics["accuracy"] > 0.9
    images, _ = open_dataset(artifact.manifest.run.data, artifact.manifest.run.model).read("validation", np.arange(80))
    here, there = (artifact.predictor(name)(images) for name in (backend, other))
    # Tensor cores round products to 10 bits of mantissa where the framework allows it.
    assert np.abs(here - there).max() < 2e-2
