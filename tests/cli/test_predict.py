"""`dlhpc predict` with a model from a registry; asking a server is tested with the server."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from dlhpc import api
from dlhpc.cli.main import main
from dlhpc.cli.predict import command
from dlhpc.client import RequestError
from dlhpc.data.sources import open_dataset
from dlhpc.registry.artifact import new_artifact
from dlhpc.spec.data import DigitsSpec
from dlhpc.spec.model import MLPSpec
from dlhpc.spec.run import RunSpec
from dlhpc.weights.init import initial_weights
from dlhpc.weights.table import param_table


@pytest.fixture
def images(tmp_path: Path) -> tuple[Path, list[str]]:
    """A registry with an untrained model, a folder of digits, and the labels that the model gives them."""
    run = RunSpec(name="m", model=MLPSpec(num_classes=10, input_shape=(8, 8, 1), hidden_sizes=(8,)), data=DigitsSpec())
    weights = initial_weights(param_table(run.model), seed=1)
    classes = [f"class-{i}" for i in range(10)]
    artifact = new_artifact(
        run, weights, classes=classes, metrics={}, data_fingerprint="none", load_backend=api.load_backend
    )
    api.Registry("registry").publish(artifact, "m")
    pixels, _ = open_dataset(run.data, run.model).read("train", np.arange(5))
    folder = tmp_path / "digits"
    folder.mkdir()
    for number, image in enumerate(pixels):
        Image.fromarray(image[:, :, 0]).save(folder / f"{number}.png")
    return folder, [classes[i] for i in artifact.predictor()(pixels).argmax(1)]


def invoke(*words: object) -> Result:
    return CliRunner().invoke(command, [str(word) for word in words], catch_exceptions=False, standalone_mode=False)


@pytest.mark.parametrize("options", [[], ["--model", "m:1"], ["--backend", "torch"], ["--backend", "flax"]])
def test_a_folder_gets_the_models_labels(images: tuple[Path, list[str]], options: list[str]) -> None:
    folder, labels = images
    result = invoke(folder, *options, "--json")
    rows = json.loads(result.stdout)
    assert result.return_value == 0
    assert [row["label"] for row in rows] == labels
    assert {row["model"] for row in rows} == {"m:1"}
    assert all(0 < row["probability"] <= 1 for row in rows)


def test_files_that_are_no_images_are_named_and_the_others_still_classified(images: tuple[Path, list[str]]) -> None:
    folder, labels = images
    (folder / "2.png").write_bytes(b"no image")
    result = invoke(folder, "--out", "results.csv")
    assert result.return_value == 1
    assert "2.png: not a PNG" in result.stderr
    assert "1 of 5 files could not be classified" in result.stderr
    with Path("results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == [*labels[:2], "", *labels[3:]]


def test_a_table_is_printed_for_people(images: tuple[Path, list[str]]) -> None:
    folder, labels = images
    (folder / "only.txt").write_text("no image, and not looked at")
    result = invoke(folder / "0.png", folder / "1.png")
    assert labels[0] in result.stdout
    assert "only.txt" not in result.stdout


def test_only_bad_files(images: tuple[Path, list[str]], tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"")
    assert invoke(bad, "--quiet").return_value == 1


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (["missing.png"], 4, "no such file"),
        (["digits", "--model", "nobody"], 4, "nobody"),
        (["digits", "--model", "m:1", "--url", "http://127.0.0.1:1"], 2, "leave out --model"),
        (["empty"], 4, "holds no image files"),
        ([], 2, "FILES"),
    ],
)
def test_mistakes(
    images: tuple[Path, list[str]], words: list[str], code: int, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("empty").mkdir()
    assert main(["predict", *words]) == code
    assert reason in capsys.readouterr().err


def test_a_server_is_sent_the_key_of_the_environment(
    images: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, str | None]] = []

    class NoServer:
        def __init__(self, url: str, *, api_key: str | None) -> None:
            seen.append((url, api_key))
            raise RequestError("there is none")

    monkeypatch.setattr("dlhpc.client.Client", NoServer)
    monkeypatch.setenv("DLHPC_API_KEY", "the-key")
    assert main(["predict", str(images[0]), "--url", "http://x"]) == 1
    assert seen == [("http://x", "the-key")]
