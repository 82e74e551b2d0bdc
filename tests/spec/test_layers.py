"""Precedence, `extends`, environment variables and --set."""

from __future__ import annotations

from pathlib import Path

import pytest

from dlhpc.errors import ConfigError
from dlhpc.spec.data import DigitsSpec, ImageFolderSpec
from dlhpc.spec.kinds import fields
from dlhpc.spec.load import RUN, SERVING, load_run
from dlhpc.spec.model import CNNSpec, MLPSpec
from dlhpc.spec.optimizer import LionSpec
from dlhpc.spec.run import RunSpec
from dlhpc.spec.schedule import ConstantSchedule
from dlhpc.spec.serving import ServingSpec


@pytest.fixture
def write(tmp_path):
    def write(**texts: str) -> Path:
        for name, text in texts.items():
            (tmp_path / f"{name}.yaml").write_text(text)
        return tmp_path / "run.yaml"

    return write


def problems(path: Path | None, *overrides: str, **environ: str) -> list[str]:
    """The problems without source lines and without the file's folder."""
    with pytest.raises(ConfigError) as caught:
        load_run(path, overrides=overrides, environ=environ)
    folder = f"{path.parent}/" if path else ""
    return [problem.splitlines()[0].replace(folder, "") for problem in caught.value.problems]


def test_each_layer_lies_over_the_one_before(write):
    path = write(
        base="training: {num_epochs: 1, batch_size: 1, learning_rate: 1, log_every: 1}",
        run="extends: base.yaml\ntraining: {num_epochs: 2, batch_size: 2, learning_rate: 2}",
    )
    environ = {"DLHPC_TRAINING__NUM_EPOCHS": "3", "DLHPC_TRAINING__BATCH_SIZE": "3"}
    training = load_run(path, overrides=["training.num_epochs=4"], environ=environ).training
    assert (training.num_epochs, training.batch_size, training.learning_rate, training.log_every) == (
        4,
        3,
        2,
        1,
    )
    assert training.evaluate_every == 1


def test_the_last_override_wins():
    assert load_run(None, overrides=["seed=1", "seed=2"], environ={}).seed == 2


def test_values_below_are_not_judged_when_something_lies_over_them(write):
    path = write(base="seed: -1", run="extends: base.yaml\nseed: 1")
    assert load_run(path, environ={}).seed == 1


# -- extends -------------------------------------------------------------------------------------------------------


def test_later_bases_win_over_earlier_ones(write):
    path = write(a="seed: 1\nname: a", b="seed: 2", run="extends: [a.yaml, b.yaml]")
    run = load_run(path, environ={})
    assert (run.seed, run.name) == (2, "a")


def test_paths_are_relative_to_the_file_that_names_them(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "run.yaml").write_text("extends: ../base.yaml")
    (tmp_path / "deep" / "base.yaml").write_text("extends: ../root.yaml")
    (tmp_path / "root.yaml").write_text("seed: 7")
    assert load_run(tmp_path / "deep" / "er" / "run.yaml", environ={}).seed == 7


def test_a_file_may_be_extended_twice(write):
    path = write(root="seed: 7", a="extends: root.yaml", b="extends: root.yaml", run="extends: [a.yaml, b.yaml]")
    assert load_run(path, environ={}).seed == 7


def test_a_circle_is_refused_naming_the_chain(write):
    path = write(run="extends: a.yaml", a="extends: b.yaml", b="seed: 1\nextends: [run.yaml]")
    assert problems(path) == [
        "b.yaml:2:11: extends: files extend each other in a circle: run.yaml -> a.yaml -> b.yaml -> run.yaml"
    ]


def test_a_file_that_extends_itself(write):
    assert problems(write(run="extends: run.yaml")) == [
        "run.yaml:1:10: extends: files extend each other in a circle: run.yaml -> run.yaml"
    ]


def test_problems_are_told_in_the_file_that_has_them(write):
    path = write(base="sed: 1", run="extends: base.yaml\ntrainin: 1")
    assert problems(path) == [
        "base.yaml:1:1: sed: unknown key; did you mean 'seed'?",
        "run.yaml:2:1: trainin: unknown key; did you mean 'training'?",
    ]


def test_a_conflict_between_files_is_told_in_the_file_on_top(write):
    path = write(
        base="model: {name: TorchDeepSpeedMLP}\ndistributed: {zero_stage: 2}",
        run="extends: base.yaml\nmodel: {name: FlaxMLP}",
    )
    (problem,) = problems(path)
    assert problem.startswith("run.yaml:2:15: model.name: ZeRO stage 2 came with FlaxMLP")


def test_a_base_that_cannot_be_read_stops_the_conclusions(write):
    path = write(base="data: {source: image_folder\nseed: [", run="extends: base.yaml\ndata: {path: photos}\nx: 1")
    found = problems(path)
    assert len(found) == 1
    assert found[0].startswith("base.yaml:2:")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("none.yaml", "no such file: none.yaml"),
        ("[a.yaml, none.yaml]", "no such file: none.yaml"),
        ("3", "expected a path relative to this file, or a list of paths"),
        ("''", "expected a path relative to this file, or a list of paths"),
        ("[[a.yaml]]", "expected a path relative to this file, or a list of paths"),
        ("{a: 1}", "expected a path relative to this file, or a list of paths"),
        ("!x a.yaml", "tag '!x' came, expected a value without a tag"),
    ],
)
def test_a_base_that_is_none(write, value, expected):
    (problem,) = problems(write(run=f"extends: {value}", a="seed: 1"))
    assert expected in problem


def test_chains_are_bounded(tmp_path):
    for index in range(100):
        (tmp_path / f"f{index}.yaml").write_text(f"extends: f{index + 1}.yaml")
    (problem,) = problems(tmp_path / "f0.yaml")
    assert "more than 64 files extend each other" in problem


# -- another choice in the child -----------------------------------------------------------------------------------


def test_another_choice_inherits_what_all_choices_share(write):
    path = write(
        base="data: {source: image_folder, path: photos, image_size: [8, 8], mean: [0.1]}\n"
        "optimizer: {name: adamw, b1: 0.5, weight_decay: 0.5}\n"
        "model: {name: FlaxMLP, num_classes: 10, hidden_sizes: [3]}\n"
        "training: {schedule: {name: warmup_cosine, warmup: 0.5, final_scale: 0.1}}\n",
        run="extends: base.yaml\n"
        "data: {source: digits}\n"
        "optimizer: {name: lion}\n"
        "model: {name: TorchDeepSpeedCNN}\n"
        "training: {schedule: {name: constant}}\n",
    )
    run = load_run(path, environ={})
    assert run.data == DigitsSpec(mean=(0.1,))
    assert run.optimizer == LionSpec(weight_decay=0.5)
    assert (run.backend, run.model) == ("torch", CNNSpec(num_classes=10))
    assert run.training.schedule == ConstantSchedule(warmup=0.5)


def test_the_same_choice_again_inherits_everything(write):
    path = write(base="data: {source: image_folder, path: photos}", run="extends: base.yaml")
    overrides = ["data.source=image_folder", "data.channels=1"]
    assert load_run(path, overrides=overrides, environ={}).data == ImageFolderSpec(path=Path("photos"), channels=1)


def test_another_framework_keeps_the_model(write):
    path = write(run="model: {name: FlaxMLP, hidden_sizes: [3]}")
    run = load_run(path, overrides=["model.name=TorchDeepSpeedMLP"], environ={})
    assert (run.backend, run.model) == ("torch", MLPSpec(hidden_sizes=(3,)))


def test_lists_are_replaced_whole(write):
    path = write(base="model: {hidden_sizes: [1, 2, 3]}", run="extends: base.yaml\nmodel: {hidden_sizes: [4]}")
    assert load_run(path, environ={}).model.hidden_sizes == (4,)


# -- environment ---------------------------------------------------------------------------------------------------


def test_environment_values_are_yaml():
    environ = {
        "DLHPC_TRAINING__LEARNING_RATE": "1e-2",
        "DLHPC_MODEL": "{name: TorchDeepSpeedCNN, channels: [4]}",
        "DLHPC_MODEL__STRIDES": "[2]",
        "DLHPC_REGISTRY__PUBLISH": "false",
        "DLHPC_NAME": "x",
    }
    run = load_run(None, environ=environ)
    assert (run.training.learning_rate, run.backend, run.registry.publish, run.name) == (
        0.01,
        "torch",
        False,
        "x",
    )
    assert run.model == CNNSpec(channels=(4,), strides=(2,))


def test_the_process_environment_counts_by_default(monkeypatch):
    monkeypatch.setenv("DLHPC_SEED", "5")
    assert load_run(None).seed == 5


def test_misspelt_variables_are_told():
    assert problems(None, DLHPC_TRAINING__LERNING_RATE="1", DLHPC_TRANING__X="1", DLHPC_SEEED="1") == [
        "environment DLHPC_SEEED: unknown variable; did you mean DLHPC_SEED?",
        "environment DLHPC_TRAINING__LERNING_RATE: training.lerning_rate: unknown key; did you mean 'learning_rate'?",
        "environment DLHPC_TRANING__X: traning: unknown key; did you mean 'training'?",
    ]


def test_variables_of_others_are_left_alone():
    environ = {"DLHPC_TRACEBACK": "1", "DLHPC_SERVING__PORT": "x", "TRAINING__SEED": "x", "dlhpc_seed": "x"}
    assert load_run(None, environ=environ) == RunSpec()


def test_a_bad_value_names_its_variable():
    assert problems(None, DLHPC_TRAINING__BATCH_SIZE="many", DLHPC_SEED="[", DLHPC_NAME="!x y") == [
        "environment DLHPC_NAME: tag '!x' came, expected a value without a tag",
        "environment DLHPC_SEED: expected the node content, but found '<stream end>' (while parsing a flow node): "
        "the file is not valid YAML",
        "environment DLHPC_TRAINING__BATCH_SIZE: training.batch_size: text 'many' came, expected an integer >= 1",
    ]


@pytest.mark.parametrize("form", [RUN, SERVING])
def test_variable_names_can_say_every_key(form):
    for spec in (RunSpec, ServingSpec):
        assert all(name == name.lower() and "__" not in name for name in fields(spec))
    assert form.prefix.endswith("_")


# -- --set ---------------------------------------------------------------------------------------------------------


def test_override_values_are_yaml():
    overrides = [
        "model.hidden_sizes=[1, 2]",
        "data={source: digits, mean: [0.1]}",
        "registry.name=",
        "name=a=b",
    ]
    with pytest.raises(ConfigError, match="'a=b' came"):
        load_run(None, overrides=overrides, environ={})
    run = load_run(None, overrides=overrides[:3], environ={})
    assert (run.model.hidden_sizes, run.data, run.registry.name) == ((1, 2), DigitsSpec(mean=(0.1,)), None)


@pytest.mark.parametrize("text", ["", "seed", "=1", ".=1", "a..b=1"])
def test_an_override_needs_key_and_value(text):
    assert problems(None, text) == [f"--set {text}: expected KEY=VALUE, such as training.batch_size=32"]


def test_a_long_override_is_shortened():
    (problem,) = problems(None, f"model.hidden_sizes=[{'1, ' * 300}0]")
    assert problem.startswith("--set model.hidden_sizes=[1, ")
    assert len(problem) < 250


def test_a_bad_override_names_itself():
    assert problems(None, "model.hidden_sizes=64,32", "data.augment={rotation:3}", "trainig.seed=3") == [
        "--set model.hidden_sizes=64,32: model.hidden_sizes: text '64,32' came, expected a list of up to 256 "
        "integers >= 1; a list stands in brackets: [64, 32]",
        "--set data.augment={rotation:3}: data.augment.rotation:3: unknown key; YAML wants a space after the colon",
        "--set trainig.seed=3: trainig: unknown key; did you mean 'training'?",
    ]


def test_a_path_through_a_value_is_refused():
    assert problems(None, "training.batch_size.x=1") == [
        "--set training.batch_size.x=1: training.batch_size: a mapping came, expected an integer >= 1"
    ]
