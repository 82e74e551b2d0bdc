"""Values laid over a run by its other users: --data, a DeepSpeed JSON, what the data says."""

from __future__ import annotations

from pathlib import Path

import pytest

from dlhpc.errors import ConfigError
from dlhpc.spec.data import DigitsSpec, ImageFolderSpec, SyntheticSpec
from dlhpc.spec.load import load_mapping, merge
from dlhpc.spec.model import CNNSpec
from dlhpc.spec.run import RunSpec


def test_merge_takes_dotted_and_nested_values_in_both_forms():
    run = merge(RunSpec(), {"training.batch_size": 32, "data": {"source": "digits"}, "model.name": "FlaxCNN"}, "x")
    assert (run.training.batch_size, run.data, run.model) == (32, DigitsSpec(), CNNSpec())
    assert merge(run, {"backend": "torch", "model.input_shape": (8, 8, 1)}, "x").model_name == "TorchDeepSpeedCNN"


def test_merge_leaves_the_given_run_alone():
    run = RunSpec()
    merge(run, {"seed": 3}, "x")
    assert run == RunSpec()


def test_merge_names_the_origin_of_a_problem():
    with pytest.raises(ConfigError) as caught:
        merge(RunSpec(), {"training.batch_size": 0, "traning.seed": 1}, "--data photos")
    assert caught.value.problems == (
        "--data photos: training.batch_size: 0 came, expected an integer >= 1",
        "--data photos: traning: unknown key; did you mean 'training'?",
    )


def test_merge_keeps_the_places_of_nodes(tmp_path):
    path = tmp_path / "deepspeed.json"
    path.write_text('{\n\t"train_batch_size": 0\n}\n')
    node = load_mapping(path).get("train_batch_size")
    with pytest.raises(ConfigError, match=r"deepspeed\.json:2:22: training\.batch_size: 0 came"):
        merge(RunSpec(), {"training.batch_size": node}, "x")


def test_merge_checks_the_whole_run():
    run = RunSpec(model=CNNSpec(channels=(8, 8, 8), strides=(1, 2, 2)))
    with pytest.raises(
        ConfigError,
        match=r"x: model\.channels: 2 convolutions \(model\.channels\) came with strides \[1, 2, 2\]",
    ):
        merge(run, {"model.channels": (8, 8)}, "x")


def test_merge_to_another_source_keeps_what_all_sources_share():
    run = RunSpec(data=SyntheticSpec(mean=(0.1,), noise=0.5))
    merged = merge(run, {"data": {"source": "image_folder", "path": Path("photos")}}, "--data photos")
    assert merged.data == ImageFolderSpec(path=Path("photos"), mean=(0.1,))
