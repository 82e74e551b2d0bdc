"""`dlhpc config`: what people and programs see."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from click.testing import CliRunner

from dlhpc.cli.config import command
from dlhpc.errors import ConfigError, ConflictError, NotFoundError, UsageError
from dlhpc.spec.data import ArraysSpec, DigitsSpec, ImageFolderSpec, SyntheticSpec
from dlhpc.spec.load import load_run, load_serving
from dlhpc.spec.run import MODEL_NAMES
from dlhpc.spec.serving import ServingSpec

CONFIG = Path(__file__).parents[2] / "config"


@pytest.fixture
def dlhpc(tmp_path, monkeypatch):
    """Runs `dlhpc config ...` in an empty folder; errors come out as they are raised."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object, status: int = 0) -> str:
        result = CliRunner().invoke(command, [str(argument) for argument in arguments], prog_name="dlhpc config")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == status, result.output
        return result.stdout

    return run


@pytest.fixture
def bad(tmp_path) -> Path:
    path = tmp_path / "bad.yaml"
    path.write_text("sed: 1\ntraining:\n  batch_size: 0\n")
    return path


@pytest.fixture
def good(tmp_path) -> Path:
    path = tmp_path / "good.yaml"
    path.write_text("seed: 1\ntraining:\n  batch_size: 32\n")
    return path


# -- check ---------------------------------------------------------------------------------------------------------


def test_shipped_files_are_fine(dlhpc):
    files = sorted(CONFIG.glob("*.yaml"))
    assert dlhpc("check", *files).splitlines() == [f"{path}: ok" for path in files]


def test_check_tells_the_problems_of_all_files(dlhpc, good, bad, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text("port: 0\n")
    with pytest.raises(ConfigError) as caught:
        dlhpc("check", good, bad, other, "none.yaml")
    assert [problem.splitlines()[0] for problem in caught.value.problems] == [
        f"{bad}:1:1: sed: unknown key; did you mean 'seed'?",
        f"{bad}:3:15: training.batch_size: 0 came, expected an integer >= 1",
        f"{other}:1:7: port: 0 came, expected an integer >= 1 and <= 65535",
        "none.yaml: no such file; 'dlhpc config init none.yaml' writes one",
    ]


def test_check_of_one_missing_file_is_not_found(dlhpc):
    with pytest.raises(NotFoundError):
        dlhpc("check", "none.yaml")
    assert json.loads(dlhpc("check", "none.yaml", "--json", status=4))["ok"] is False


def test_check_as_json(dlhpc, good, bad):
    assert json.loads(dlhpc("check", good, "--json"))["ok"] is True
    report = json.loads(dlhpc("check", good, bad, "--json", status=2))
    assert [(file["file"], file["ok"], len(file["problems"])) for file in report["files"]] == [
        (str(good), True, 0),
        (str(bad), False, 2),
    ]
    assert json.loads(dlhpc("check", bad, bad, "--json", status=2))["ok"] is False


def test_check_counts_overrides_and_environment(dlhpc, good, monkeypatch):
    with pytest.raises(ConfigError, match=r"--set seed=x"):
        dlhpc("check", good, "--set", "seed=x")
    monkeypatch.setenv("DLHPC_SEED", "x")
    with pytest.raises(ConfigError, match=r"environment DLHPC_SEED"):
        dlhpc("check", good)


# -- show ----------------------------------------------------------------------------------------------------------


def test_show_prints_a_file_that_means_the_same(dlhpc, good, tmp_path):
    (tmp_path / "shown.yaml").write_text(dlhpc("show", good, "--set", "model.name=TorchDeepSpeedCNN"))
    expected = load_run(good, overrides=["model.name=TorchDeepSpeedCNN"], environ={})
    assert load_run(tmp_path / "shown.yaml", environ={}) == expected


def test_show_names_origins(dlhpc, good, monkeypatch):
    monkeypatch.setenv("DLHPC_NAME", "from-environment")
    lines = dlhpc("show", good, "--origin", "--set", "model.name=FlaxCNN").splitlines()
    origins = {line.split(":")[0].strip(): line.partition("  # ")[2] for line in lines if "  # " in line}
    assert origins["batch_size"] == f"{good}:3"
    assert origins["num_epochs"] == "default"
    assert "name: from-environment                    # environment DLHPC_NAME" in lines
    assert "  name: FlaxCNN                           # --set model.name=FlaxCNN" in lines


def test_show_as_json(dlhpc, good):
    assert json.loads(dlhpc("show", good, "--json"))["training"]["batch_size"] == 32
    report = json.loads(dlhpc("show", good, "--json", "--origin"))
    assert report["origins"]["training.batch_size"] == f"{good}:3"
    assert report["values"]["model"]["name"] == "FlaxMLP"


def test_show_without_a_file_prints_the_defaults(dlhpc, tmp_path):
    (tmp_path / "shown.yaml").write_text(dlhpc("show"))
    assert load_run(tmp_path / "shown.yaml", environ={}) == load_run(None, environ={})
    (tmp_path / "serving.yaml").write_text(dlhpc("show", "--serving"))
    assert load_serving(tmp_path / "serving.yaml", environ={}) == ServingSpec()


def test_show_of_a_server_file(dlhpc, tmp_path):
    (tmp_path / "serve.yaml").write_text("port: 9000\nreplicas: 2\n")
    assert "port: 9000\n" in dlhpc("show", "serve.yaml")


# -- explain -------------------------------------------------------------------------------------------------------


def test_explain_tells_all_about_a_key(dlhpc):
    assert dlhpc("explain", "training.gradient_accumulation") == (
        "training.gradient_accumulation\n"
        "  Each step's batch is worked through in this many parts of equal size.\n"
        "  takes    an integer >= 1\n"
        "  default  1\n"
        "\n"
        "  in a file:\n"
        "    training:\n"
        "      gradient_accumulation: 1\n"
        "  on the command line:  --set training.gradient_accumulation=1\n"
        "  in the environment:   DLHPC_TRAINING__GRADIENT_ACCUMULATION=1\n"
        "  rule: `training.gradient_accumulation` divides `training.batch_size`.\n"
    )


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("model.name", "TorchDeepSpeedCNN:\n      Convolutions"),
        ("model.hidden_sizes", "with model.name: FlaxCNN or TorchDeepSpeedCNN:"),
        ("model.hidden_sizes", "--set model.hidden_sizes='[512, 256, 128]'"),
        ("data.path", "default  (required)"),
        ("data.path", "path: photos/"),
        ("data", ".split.method"),
        ("data", "(with data.source: image_folder)"),
        ("optimizer.groups", "[].learning_rate_scale"),
        ("optimizer.groups[].match", "(required)"),
        ("name", "name: my-run"),
        ("model.num_classes", "num_classes: 10"),
        ("model.input_shape", "--set model.input_shape='[28, 28, 1]'"),
    ],
)
def test_explain_fits_the_key(dlhpc, key, expected):
    assert expected in dlhpc("explain", key)


def test_what_explain_shows_can_be_set(dlhpc):
    for entry in json.loads(dlhpc("explain", "--json")):
        if entry["kind"] == "section" or entry["when"] or "[]" in entry["path"]:
            continue
        line = next(line for line in dlhpc("explain", entry["path"]).splitlines() if "--set " in line)
        load_run(None, overrides=[line.partition("--set ")[2].replace("'", "")], environ={})


def test_explain_without_a_key_lists_all(dlhpc):
    listed = dlhpc("explain")
    assert "training.schedule.final_scale" in listed
    assert "metrics_port" in dlhpc("explain", "--serving")
    entries = json.loads(dlhpc("explain", "--json"))
    path = next(entry for entry in entries if entry["path"] == "data.path")
    assert (path["required"], path["default"], path["environment"]) == (True, None, "DLHPC_DATA__PATH")


def test_explain_of_a_server_key(dlhpc):
    text = dlhpc("explain", "model", "--serving")
    assert "DLHPC_SERVING__MODEL=my-model" in text
    assert "rule:" not in text


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("training.lr", "did you mean training.learning_rate?"),
        ("learning_rate", "did you mean training.learning_rate?"),
        ("traning", "did you mean training?"),
        ("zzz", "'dlhpc config explain' lists all"),
    ],
)
def test_explain_of_no_key_suggests(dlhpc, key, hint):
    with pytest.raises(UsageError, match="no such key") as caught:
        dlhpc("explain", key)
    assert hint in str(caught.value)


# -- init ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODEL_NAMES)
@pytest.mark.parametrize("data", ["digits", "synthetic", "x.npz", "photos/"])
def test_init_writes_a_file_that_loads(dlhpc, tmp_path, model, data):
    assert "dlhpc train flowers.yaml" in dlhpc("init", "flowers.yaml", "--model", model, "--data", data)
    run = load_run(tmp_path / "flowers.yaml", environ={})
    assert run.model_name == model
    assert (
        run.data
        == {
            "digits": DigitsSpec(),
            "synthetic": SyntheticSpec(),
            "x.npz": ArraysSpec(path=Path("x.npz")),
            "photos/": ImageFolderSpec(path=Path("photos")),
        }[data]
    )
    assert dlhpc("check", "flowers.yaml") == "flowers.yaml: ok\n"


def test_init_takes_a_folder_that_exists(dlhpc, tmp_path):
    (tmp_path / "photos").mkdir()
    dlhpc("init", "--data", "photos")
    assert load_run(tmp_path / "run.yaml", environ={}).data == ImageFolderSpec(path=Path("photos"))


def test_init_of_a_server(dlhpc, tmp_path):
    assert "dlhpc serve" in dlhpc("init", "serve.yaml", "--serving")
    assert load_serving(tmp_path / "serve.yaml", environ={}) == ServingSpec()


def test_init_as_json(dlhpc):
    assert json.loads(dlhpc("init", "x.yaml", "--json")) == {"path": "x.yaml"}


def test_init_never_overwrites(dlhpc, good):
    before = good.read_text()
    with pytest.raises(ConflictError, match="exists already"):
        dlhpc("init", good)
    assert good.read_text() == before


def test_init_refuses_data_that_is_none(dlhpc, tmp_path):
    with pytest.raises(UsageError, match="expected 'digits', 'synthetic', an existing folder"):
        dlhpc("init", "--data", "photoz")
    assert not list(tmp_path.iterdir())


# -- diff ----------------------------------------------------------------------------------------------------------


def test_diff_compares_what_files_amount_to(dlhpc, good, tmp_path):
    (tmp_path / "other.yaml").write_text("extends: good.yaml\nmodel: {name: FlaxCNN}\n")
    lines = dlhpc("diff", good, "other.yaml").splitlines()
    assert lines[0].split() == ["key", str(good), "other.yaml"]
    assert ["model.name", "FlaxMLP", "FlaxCNN"] in [line.split() for line in lines]
    assert ["model.channels", "-", "[32,", "64]"] in [line.split() for line in lines]
    report = json.loads(dlhpc("diff", good, "other.yaml", "--json"))
    assert {"key": "model.name", "a": "FlaxMLP", "b": "FlaxCNN"} in report["changes"]
    assert report["equal"] is False


def test_diff_of_equal_files(dlhpc, good, tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(load_run(good, environ={}).canonical()))
    assert dlhpc("diff", good, "run.json") == "no difference\n"
    assert json.loads(dlhpc("diff", good, "run.json", "--json")) == {"equal": True, "changes": []}


def test_diff_needs_good_files(dlhpc, good, bad):
    with pytest.raises(ConfigError):
        dlhpc("diff", good, bad)


# -- schema, help --------------------------------------------------------------------------------------------------


def test_schema_is_json_schema(dlhpc):
    for arguments in ((), ("--serving",), ("--json",)):
        jsonschema.Draft202012Validator.check_schema(json.loads(dlhpc("schema", *arguments)))
    assert dlhpc("schema") != dlhpc("schema", "--serving")


def test_help_teaches_the_precedence(dlhpc):
    text = dlhpc("--help")
    places = [text.index(word) for word in ("defaults", "extends:", "the file itself", "DLHPC_TRAINING__", "--set tr")]
    assert places == sorted(places)


@pytest.mark.parametrize("verb", ["check", "show", "explain", "init", "diff", "schema"])
def test_every_verb_has_examples_and_json(dlhpc, verb):
    text = dlhpc(verb, "--help")
    assert "Examples:" in text
    assert f"dlhpc config {verb}" in text
    assert "--json" in text
