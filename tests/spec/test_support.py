"""Settings that do not go together are refused when the file is read; those that do are not."""

from __future__ import annotations

import pytest

from dlhpc.errors import ConfigError
from dlhpc.spec.load import load_run
from dlhpc.spec.support import RULES, conflicts

BROKEN = [
    ("distributed.zero_stage", "distributed: {zero_stage: 2}", "only PyTorch trains on DeepSpeed"),
    (
        "distributed.persistence_threshold",
        "model: {name: TorchDeepSpeedMLP}\ndistributed: {zero_stage: 2, persistence_threshold: 0}",
        "0 came with ZeRO stage 2",
    ),
    (
        "optimizer.estimator",
        "model: {name: TorchDeepSpeedMLP}\noptimizer: {name: sophia, estimator: hutchinson}\n"
        "distributed: {zero_stage: 3}",
        "hutchinson came with ZeRO stage 3, expected gnb",
    ),
    (
        "training.precision",
        "model: {name: TorchDeepSpeedMLP}\ntraining: {precision: float64}\ndistributed: {zero_stage: 1}",
        "ZeRO keeps its master weights in float32",
    ),
    (
        "training.gradient_accumulation",
        "training: {gradient_accumulation: 7}",
        "7 parts came for a batch of 64",
    ),
    (
        "model.strides",
        "model: {name: FlaxCNN, strides: [1, 2, 2]}",
        "2 convolutions (model.channels) came with strides [1, 2, 2]",
    ),
    (
        "model.channels",
        "model: {name: FlaxCNN, channels: [8]}",
        "1 convolutions (model.channels) came with strides [1, 2]",
    ),
    (
        "data.mean",
        "data: {source: digits, mean: [0.1, 0.2]}",
        "data.mean has 2 values for images of 1 channels",
    ),
    (
        "data.std",
        "data: {source: image_folder, path: x, channels: 1, std: [1, 1, 1]}",
        "data.std has 3 values for images of 1 channels",
    ),
    (
        "data.mean",
        "data: {image_shape: [4, 4, 2], mean: [1, 1, 1]}",
        "data.mean has 3 values for images of 2 channels",
    ),
    (
        "data.mean",
        "data: {source: arrays, path: x, mean: [1, 1], std: [1, 1, 1]}",
        "data.mean has 2 values and data.std 3, expected one or one each",
    ),
    ("data.mean", "data: {source: arrays, path: x, mean: []}", "data.mean has 0 values and data.std 1"),
    (
        "data.mean",
        "model: {input_shape: [4, 4, 3]}\ndata: {mean: [1, 1]}",
        "2 values for images of 3 channels",
    ),
    (
        "model.input_shape",
        "model: {input_shape: [4, 4, 3]}\ndata: {source: digits}",
        "[4, 4, 3] came, but the data",
    ),
    (
        "model.input_shape",
        "model: {input_shape: [4, 4, 3]}\ndata: {source: image_folder, path: x, image_size: [4, 5]}",
        "[4, 4, 3] came, but the data gives [4, 5, 3]",
    ),
    (
        "model.input_shape",
        "model: {input_shape: [4, 4, 3]}\ndata: {image_shape: [4, 4, 1]}",
        "the data gives [4, 4, 1]",
    ),
    (
        "model.num_classes",
        "model: {num_classes: 11}\ndata: {source: digits}",
        "11 classes came, but the data has 10",
    ),
    (
        "model.num_classes",
        "model: {num_classes: 11}\ndata: {num_classes: 12}",
        "11 classes came, but the data has 12",
    ),
    (
        "model.dropout_rate",
        "model: {hidden_sizes: [], dropout_rate: 0.5}",
        "0.5 came without hidden dense layers",
    ),
    (
        "model.normalization",
        "model: {hidden_sizes: [], normalization: layer}",
        "'layer' came without hidden layers",
    ),
    (
        "training.schedule.name",
        "training: {schedule: {name: reduce_on_plateau}}\ndata: {split: {validation: 0}}",
        "reduce_on_plateau came with data.split.validation 0",
    ),
    ("registry.alias", "registry: {alias: production, publish: false}", "nothing is published"),
]


@pytest.mark.parametrize(("key", "text", "expected"), BROKEN)
def test_a_combination_is_refused_at_its_key(tmp_path, key, text, expected):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_run(path, environ={})
    (problem,) = caught.value.problems
    first, _, caret = problem.splitlines()
    assert f": {key}: " in first
    assert first.startswith(f"{path}:")
    assert expected in first
    assert caret.strip() == "^"


def test_every_rule_is_broken_here_once():
    keys = {key for key, _, _ in BROKEN}
    assert all(keys & set(rule.keys) for rule in RULES)


GOOD = [
    "model: {name: TorchDeepSpeedCNN}\ndistributed: {zero_stage: 3, persistence_threshold: 0}",
    "model: {name: TorchDeepSpeedCNN}\ntraining: {precision: bfloat16}\ndistributed: {zero_stage: 1}",
    "model: {name: TorchDeepSpeedCNN}\ntraining: {precision: float64}",
    "training: {batch_size: 12, gradient_accumulation: 4}",
    "model: {name: FlaxCNN, strides: [2], channels: [1, 2, 3, 4]}",
    "data: {source: image_folder, path: x, mean: [1, 1, 1], std: [1]}",
    "data: {source: arrays, path: x, mean: [1, 1], std: [1, 1]}",
    "model: {input_shape: [4, 4, 3]}\ndata: {mean: [1, 1, 1]}",
    "model: {num_classes: 10, input_shape: [8, 8, 1]}\ndata: {source: digits}",
    "model: {num_classes: 10}\ndata: {num_classes: 10}",
    "model: {name: FlaxCNN, hidden_sizes: [], normalization: layer}",
    "training: {schedule: {name: reduce_on_plateau}}\ndata: {split: {validation: 0.05}}",
    "training: {schedule: {name: wsd}}\ndata: {split: {validation: 0}}",
    "registry: {alias: production}",
]


@pytest.mark.parametrize("text", GOOD)
def test_what_goes_together_is_taken(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    assert not list(conflicts(load_run(path, environ={})))


def test_a_rule_waits_for_the_values_it_reads(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("training: {batch_size: x, gradient_accumulation: 7}\ndistributed: {zero_stage: 1}")
    with pytest.raises(ConfigError) as caught:
        load_run(path, environ={})
    keys = [problem.splitlines()[0].split(": ")[1] for problem in caught.value.problems]
    assert keys == ["training.batch_size", "distributed.zero_stage"]


def test_the_problem_is_told_where_the_user_spoke_last(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("model: {name: TorchDeepSpeedMLP}\ndistributed: {zero_stage: 2}")
    with pytest.raises(ConfigError, match=r"^--set model\.name=FlaxMLP: model\.name: ZeRO stage 2 came with FlaxMLP"):
        load_run(path, overrides=["model.name=FlaxMLP"], environ={})
