"""The shipped runs on real digits: as accurate as promised, and the same model in either framework."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dlhpc import api
from dlhpc.data.sources import open_dataset

ROOT = Path(__file__).parents[2]
SHIPPED = {
    "flax_config.yaml": 0.960,
    "torch_deepspeed_mlp.yaml": 0.960,
    "flax_cnn.yaml": 0.980,
    "torch_deepspeed_cnn.yaml": 0.980,
}


@pytest.mark.slow
@pytest.mark.parametrize(("config", "at_least"), SHIPPED.items())
def test_shipped_run_reaches_its_accuracy_and_predicts_the_same_in_both_frameworks(
    config: str, at_least: float, tmp_path: Path
) -> None:
    run = api.load_run(
        ROOT / "config" / config, overrides=[f"registry.path={tmp_path / 'registry'}", f"runs_dir={tmp_path / 'runs'}"]
    )
    artifact = api.train(run)
    assert api.evaluate(f"{run.resolved_name}:1", registry=tmp_path / "registry").accuracy >= at_least

    dataset = open_dataset(artifact.manifest.run.data, artifact.manifest.run.model)
    images, _ = dataset.read("test", np.arange(899))
    flax, torch = (artifact.predictor(backend)(images) for backend in ("flax", "torch"))
    assert np.array_equal(flax.argmax(1), torch.argmax(1))
    assert np.abs(flax - torch).max() < 1e-5
