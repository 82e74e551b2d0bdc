"""Files, environment and --set become one run, or every problem at once, each at its place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dlhpc.errors import ConfigError, NotFoundError
from dlhpc.spec.data import ArraysSpec, DigitsSpec, DigitsSplitSpec, ImageFolderSpec, SyntheticSpec
from dlhpc.spec.load import (
    RUN,
    SERVING,
    explicit,
    file_form,
    guess_form,
    load_run,
    load_serving,
    trace,
)
from dlhpc.spec.model import CNNSpec, MLPSpec
from dlhpc.spec.optimizer import LionSpec, ParameterGroup
from dlhpc.spec.run import MODEL_NAMES, RunSpec
from dlhpc.spec.schedule import ConstantSchedule

CONFIG = Path(__file__).parents[2] / "config"

SEED_EXAMPLE = """\
model:
  name: "FlaxMLP"
  num_classes: 1000
  hidden_sizes: [512, 256, 128]
  dropout_rate: 0.1

training:
  num_epochs: 100
  batch_size: 64
  learning_rate: 0.001
"""
"""config/flax_config.yaml as the documentation that this project grew from prints it, byte for byte."""


@pytest.fixture
def write(tmp_path):
    def write(text: str, name: str = "run.yaml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write


def problems(path: Path | None, *overrides: str, **environ: str) -> list[str]:
    """The problems of a file, without the source lines below them and without its folder."""
    with pytest.raises(ConfigError) as caught:
        load_run(path, overrides=overrides, environ=environ)
    folder = f"{path.parent}/" if path else ""
    return [problem.splitlines()[0].removeprefix(folder) for problem in caught.value.problems]


def test_the_seed_example_is_a_valid_run(write):
    run = load_run(write(SEED_EXAMPLE), environ={})
    assert run.model == MLPSpec(num_classes=1000, hidden_sizes=(512, 256, 128), dropout_rate=0.1)
    assert run.backend == "flax"
    assert run.data == SyntheticSpec()
    assert (run.training.num_epochs, run.training.batch_size, run.training.learning_rate) == (100, 64, 0.001)


def test_a_path_may_be_a_text(write):
    assert load_run(str(write("seed: 3")), environ={}).seed == 3


def test_without_a_file_every_value_is_the_default():
    assert load_run(None, environ={}) == RunSpec()


@pytest.mark.parametrize(("name", "pair"), MODEL_NAMES.items())
def test_a_model_name_says_architecture_and_backend(write, name, pair):
    run = load_run(write(f"model: {{name: {name}}}"), environ={})
    assert (run.model.architecture, run.backend) == pair
    assert run.model_name == name


@pytest.mark.parametrize(
    ("shipped", "model", "name"),
    [
        ("flax_config.yaml", "FlaxMLP", "digits-mlp"),
        ("flax_cnn.yaml", "FlaxCNN", "digits-cnn"),
        ("torch_deepspeed_mlp.yaml", "TorchDeepSpeedMLP", "digits-mlp-torch"),
        ("torch_deepspeed_cnn.yaml", "TorchDeepSpeedCNN", "digits-cnn-torch"),
    ],
)
def test_shipped_runs_train_on_digits(shipped, model, name):
    run = load_run(CONFIG / shipped, environ={})
    assert (run.model_name, run.name, run.data.source, run.data.split.method) == (
        model,
        name,
        "digits",
        "halves",
    )


def test_twins_are_configured_alike():
    for flax, torch in (("flax_config", "torch_deepspeed_mlp"), ("flax_cnn", "torch_deepspeed_cnn")):
        one, other = (load_run(CONFIG / f"{name}.yaml", environ={}).canonical() for name in (flax, torch))
        different = {key for key in one if one[key] != other[key]}
        assert different == {"name", "backend"}


def test_the_shipped_flax_run_has_the_keys_of_the_seed():
    said = explicit(load_run(CONFIG / "flax_config.yaml", environ={}))
    seed = explicit(RunSpec.model_validate({"model": {"architecture": "mlp"}}))
    assert {"num_classes", "hidden_sizes", "dropout_rate"} <= set(said["model"])
    assert {"num_epochs", "batch_size", "learning_rate"} <= set(said["training"])
    assert set(seed) < set(said)


def test_all_problems_come_at_once_in_the_order_of_the_file(write):
    path = write(
        """\
name: Digits MLP
model:
  name: FlaxMPL
  learning_rate: 0.1
  hidden_sizes: [512, 0, "x"]
  dropout_rate: 1.5
  kernel_size: [3, 3]
  input_shape: [28, 28]
training:
  num_epochs: 64.0
  batch_size: "64"
  batch_size: 32
  learning_rate: .nan
  precision: floot32
  wieght_decay: 1e-3
optimizer:
  name: lion
  wieght_decay: 1e-3
  eps: 3
  groups: [{match: 3}, {mach: a, learning_rate_scale: -1}]
data: {source: arrays, split: {validation: 0.5, test: 0.5}}
registry: {publish: no}
registery: 3
seed: 1_000
"""
    )
    names = "'FlaxMLP', 'FlaxCNN', 'TorchDeepSpeedMLP', 'TorchDeepSpeedCNN'"
    lower = "a name of lower-case letters, digits, '.', '_' and '-'"
    pattern = "Shell pattern over canonical parameter names, such as `head/*`; the first group that matches counts"
    assert problems(path) == [
        f"run.yaml:1:7: name: text 'Digits MLP' came, expected {lower} or null; did you mean 'digits-mlp'?",
        f"run.yaml:3:9: model.name: 'FlaxMPL' came, expected one of {names}; did you mean 'FlaxMLP'?",
        "run.yaml:4:3: model.learning_rate: unknown key; it belongs to 'training.learning_rate'",
        "run.yaml:5:23: model.hidden_sizes[1]: 0 came, expected an integer >= 1",
        "run.yaml:5:26: model.hidden_sizes[2]: text 'x' came, expected an integer >= 1",
        "run.yaml:6:17: model.dropout_rate: 1.5 came, expected a number >= 0 and < 1",
        "run.yaml:7:3: model.kernel_size: unknown key; it belongs to model.name 'FlaxCNN' or 'TorchDeepSpeedCNN', "
        "not to 'FlaxMLP' or 'TorchDeepSpeedMLP'",
        "run.yaml:8:16: model.input_shape: [28, 28] came, expected a list of 3 integers >= 1 or null",
        "run.yaml:10:15: training.num_epochs: 64.0 came, expected an integer >= 1; did you mean 64?",
        "run.yaml:11:15: training.batch_size: text '64' came, expected an integer >= 1; "
        "did you mean 64, without quotes?",
        "run.yaml:12:3: training.batch_size: duplicate key, first given on line 11; keep one",
        "run.yaml:13:18: training.learning_rate: .nan came, expected a number > 0",
        "run.yaml:14:14: training.precision: text 'floot32' came, expected one of 'float32', 'bfloat16', 'float64'; "
        "did you mean 'float32'?",
        "run.yaml:15:3: training.wieght_decay: unknown key; did you mean 'optimizer.weight_decay'?",
        "run.yaml:18:3: optimizer.wieght_decay: unknown key; did you mean 'weight_decay'?",
        "run.yaml:19:3: optimizer.eps: unknown key; it belongs to optimizer.name 'adamw' or 'adan' or 'adabelief' or "
        "'sophia', not to 'lion'",
        "run.yaml:20:20: optimizer.groups[0].match: 3 came, expected a text",
        f"run.yaml:20:24: optimizer.groups[1].match: missing, expected a text ({pattern})",
        "run.yaml:20:25: optimizer.groups[1].mach: unknown key; did you mean 'match'?",
        "run.yaml:20:55: optimizer.groups[1].learning_rate_scale: -1 came, expected a number >= 0",
        "run.yaml:21:1: data.path: missing, expected a path (The .npz file)",
        "run.yaml:21:31: data.split: validation + test leave less than a tenth for training",
        "run.yaml:22:21: registry.publish: text 'no' came, expected true or false; "
        "YAML 1.2 knows only true and false; did you mean false?",
        "run.yaml:23:1: registery: unknown key; did you mean 'registry'?",
        "run.yaml:24:7: seed: text '1_000' came, expected an integer >= 0; did you mean 1000, without quotes?",
    ]


def test_a_problem_shows_its_line_with_a_caret(write):
    path = write("training:\n  num_epochs: 5\n  optimizer.wieght_decay: 1\n")
    with pytest.raises(ConfigError) as caught:
        load_run(path, environ={})
    (problem,) = caught.value.problems
    assert problem.splitlines()[1:] == ["      optimizer.wieght_decay: 1", "      ^"]


def test_exit_status_is_2(write):
    with pytest.raises(ConfigError) as caught:
        load_run(write("x: 1"), environ={})
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("number", ["1e-3", "1E-3", "0.001", "1.0e-3", "+.001", ".1e-2"])
def test_a_number_is_a_number(write, number):
    assert load_run(write(f"training: {{learning_rate: {number}}}"), environ={}).training.learning_rate == 0.001


@pytest.mark.parametrize("text", ["0x10", "0o20", "16", "+16"])
def test_integers_of_yaml_1_2(write, text):
    assert load_run(write(f"seed: {text}"), environ={}).seed == 16


def test_an_integer_serves_where_a_number_is_expected(write):
    run = load_run(write("training: {learning_rate: 1}"), environ={})
    assert run.training.learning_rate == 1.0
    assert isinstance(run.training.learning_rate, float)


def test_words_of_yaml_1_1_are_texts(write):
    assert load_run(write("name: no\nregistry: {name: on}"), environ={}).name == "no"


@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan", "1e999"])
def test_infinities_and_nan_are_refused(write, value):
    (problem,) = problems(write(f"training: {{learning_rate: {value}}}"))
    assert "came, expected a number > 0" in problem


def test_true_is_no_integer(write):
    assert problems(write("seed: true")) == ["run.yaml:1:7: seed: true came, expected an integer >= 0"]


def test_a_section_with_nothing_below_says_nothing(write):
    assert load_run(write("model:\ntraining:\n  # batch_size: 3\nseed: 1\n"), environ={}).training.batch_size == 64


def test_a_scalar_is_no_section(write):
    (problem,) = problems(write("training: 5"))
    assert problem.startswith("run.yaml:1:11: training: 5 came, expected a mapping with keys such as num_epochs, ")


def test_lists_of_mappings(write):
    text = "optimizer: {groups: [{match: 'head/*', learning_rate_scale: 0}]}"
    groups = load_run(write(text), environ={}).optimizer.groups
    assert groups == (ParameterGroup(match="head/*", learning_rate_scale=0.0),)
    assert problems(write("optimizer: {groups: 3}")) == [
        "run.yaml:1:21: optimizer.groups: 3 came, expected a list of mappings"
    ]


def test_a_missing_file_is_not_found(tmp_path):
    with pytest.raises(NotFoundError, match="dlhpc config init"):
        load_run(tmp_path / "none.yaml", environ={})


# -- choices -------------------------------------------------------------------------------------------------------


def test_a_choice_brings_its_own_defaults(write):
    assert load_run(write("data: {source: digits}"), environ={}).data == DigitsSpec()
    assert load_run(write("data: {source: digits}"), environ={}).data.split.method == "halves"
    assert load_run(write("optimizer: {name: lion}"), environ={}).optimizer == LionSpec()
    assert load_run(write("training: {schedule: {name: constant}}"), environ={}).training.schedule == ConstantSchedule()


def test_part_of_a_nested_default_keeps_the_rest_of_the_fields(write):
    split = load_run(write("data: {source: digits, split: {method: halves, validation: 0.2}}"), environ={}).data.split
    assert split == DigitsSplitSpec(method="halves", validation=0.2)


def test_without_a_tag_the_default_choice_counts(write):
    assert load_run(write("data: {noise: 0.5}"), environ={}).data == SyntheticSpec(noise=0.5)
    assert problems(write("data: {path: x}")) == [
        "run.yaml:1:8: data.path: unknown key; it belongs to data.source 'arrays' or 'image_folder', not to 'synthetic'"
    ]


def test_a_misspelt_tag_does_not_hide_other_problems(write):
    assert problems(write("data: {source: digit, nois: 3, mean: x}")) == [
        "run.yaml:1:16: data.source: text 'digit' came, expected one of 'digits', 'arrays', 'image_folder', "
        "'synthetic'; did you mean 'digits'?",
        "run.yaml:1:23: data.nois: unknown key; did you mean 'data.noise'?",
        "run.yaml:1:38: data.mean: text 'x' came, expected a list of numbers",
    ]


def test_the_spec_form_is_read_too(write):
    run = RunSpec(backend="torch", model=CNNSpec(num_classes=3), data=ImageFolderSpec(path=Path("photos")))
    assert load_run(write(json.dumps(run.canonical()), "run.json"), environ={}) == run


def test_a_contradiction_between_the_two_forms(write):
    assert problems(write("model: {name: FlaxMLP, architecture: cnn}\nbackend: torch\n")) == [
        "run.yaml:1:38: model.architecture: 'cnn' came, but model.name FlaxMLP says 'mlp'; keep one of the two",
        "run.yaml:2:10: backend: 'torch' came, but model.name FlaxMLP says 'flax'; keep one of the two",
    ]


def test_a_model_name_that_is_no_text(write):
    (problem,) = problems(write("model: {name: [3]}"))
    assert problem.startswith("run.yaml:1:15: model.name: [3] came, expected one of 'FlaxMLP', ")


# -- the file's form -----------------------------------------------------------------------------------------------


def test_the_file_form_is_read_back_equal(write):
    run = RunSpec(backend="torch", model=CNNSpec(strides=(2,)), data=DigitsSpec(), optimizer=LionSpec(weight_decay=0.5))
    values = file_form(run)
    assert next(iter(values["model"])) == "name"
    assert next(iter(values["data"])) == "source"
    assert "backend" not in values
    assert load_run(write(json.dumps(values)), environ={}) == run


def test_the_file_form_of_a_server(write):
    serving = load_serving(None, environ={})
    assert load_serving(write(json.dumps(file_form(serving))), environ={}) == serving


def test_explicit_values_rebuild_the_run():
    run = RunSpec(data=ArraysSpec(path=Path("a.npz")), optimizer=LionSpec(groups=(ParameterGroup(match="*"),)))
    assert explicit(run) == {
        "data": {"source": "arrays", "path": Path("a.npz")},
        "optimizer": {"name": "lion", "groups": [{"match": "*"}]},
    }


# -- servers, and which kind a file is -----------------------------------------------------------------------------


def test_a_server_is_read_like_a_run(write):
    path = write("port: 80000\nmetrcs_port: 1\nlimits: {deadline: 3}\n")
    with pytest.raises(ConfigError) as caught:
        load_serving(path, environ={"DLHPC_SERVING__PROT": "3", "DLHPC_SEED": "x"}, overrides=["replicas=0"])
    assert [problem.splitlines()[0].rpartition("/")[2] for problem in caught.value.problems] == [
        "run.yaml:1:7: port: 80000 came, expected an integer >= 1 and <= 65535",
        "run.yaml:2:1: metrcs_port: unknown key; did you mean 'metrics_port'?",
        "run.yaml:3:10: limits.deadline: unknown key; did you mean 'deadline_s'?",
        "environment DLHPC_SERVING__PROT: prot: unknown key; did you mean 'port'?",
        "--set replicas=0: replicas: 0 came, expected an integer >= 1",
    ]


def test_rules_of_a_server_are_told_at_the_file(write):
    with pytest.raises(ConfigError, match="port and metrics_port are both 8000"):
        load_serving(write("port: 8000\nmetrics_port: 8000\n"), environ={})


def test_a_file_is_told_by_its_keys(write):
    assert guess_form(write("port: 1\nreplicas: 2")) is SERVING
    assert guess_form(write("model: {name: FlaxMLP}")) is RUN
    assert guess_form(write("extends: x.yaml")) is RUN
    assert guess_form(write("[1, 2]")) is RUN


def test_places_tell_where_values_come_from(write):
    path = write("training:\n  batch_size: 32\n")
    loaded = trace(RUN, path, overrides=["seed=3"], environ={"DLHPC_NAME": "a"})
    origins = {key: (place.origin, place.line) for key, place in loaded.places.items()}
    assert origins["training.batch_size"] == (str(path), 2)
    assert origins["seed"] == ("--set seed=3", None)
    assert origins["name"] == ("environment DLHPC_NAME", None)
    assert "training.num_epochs" not in origins


def test_digits_keep_their_halves_when_only_a_share_is_set(tmp_path: Path) -> None:
    """A quarter for validation once moved the test part too."""
    file = tmp_path / "run.yaml"
    file.write_text("data: {source: digits, split: {validation: 0.25}}\n")
    assert load_run(file, environ={}).data.split.method == "halves"
