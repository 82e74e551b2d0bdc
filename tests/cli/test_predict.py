"""`dlhpc predict` with a model from a registry, and by asking; what a real server answers is tested with it."""

from __future__ import annotations

import base64
import csv
import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from dlhpc import api
from dlhpc.cli.main import main
from dlhpc.cli.predict import command
from dlhpc.data.sources import open_dataset
from dlhpc.registry.artifact import new_artifact
from dlhpc.spec.data import DigitsSpec
from dlhpc.spec.model import MLPSpec
from dlhpc.spec.run import RunSpec
from dlhpc.weights.init import initial_weights
from dlhpc.weights.table import param_table
from tests.client.answers import REPLY


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
        (["digits", "--backend", "torch", "--url", "http://127.0.0.1:1"], 2, "leave out --backend"),
        (["digits", "--proxy", "http://127.0.0.1:1"], 2, "name it with --url"),
        (["digits", "--url", "http://127.0.0.1:1", "--ca", "absent.pem"], 4, "not a file of certificates"),
        (["digits", "--resume"], 2, "name it with --out"),
        (["digits", "--url", "http://127.0.0.1:1", "--proxy", "ftp://x"], 1, "not a URL"),
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


class Asked:
    """A server that answers each image with its own bytes as the label, and remembers what it was asked."""

    def __init__(self) -> None:
        self.images: list[str] = []
        self.headers: list[Message] = []
        self.paths: set[str] = set()
        self.before: Callable[[str], int | None] = lambda image: None
        """Called with each image; the status to refuse it with, if it is not to be answered."""
        asked = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["content-length"]))
                image = base64.b64decode(json.loads(content)["image"]).decode()
                asked.images.append(image)
                asked.headers.append(self.headers)
                asked.paths.add(self.path)
                status = asked.before(image) or 200
                reply = REPLY.model_copy(update={"label": image, "probabilities": {image: 0.5}})
                body = reply.model_dump_json(by_alias=True).encode() if status == 200 else b"no"
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *arguments: object) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def asked() -> Iterator[Asked]:
    served = Asked()
    thread = threading.Thread(target=served.server.serve_forever, args=(0.01,))
    thread.start()
    yield served
    served.server.shutdown()
    thread.join()
    served.server.server_close()


def files(count: int) -> Path:
    folder = Path("many")
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:03}.png").write_text(f"image {number:03}")
    return folder


def csv_labels(path: str) -> list[str]:
    with Path(path).open(newline="") as file:
        return [row["label"] for row in csv.DictReader(file)]


def test_a_server_is_asked_for_every_file_in_order(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLHPC_API_KEY", "the-key")
    result = invoke(files(40), "--url", asked.url, "--model", "digits@production", "--out", "out.csv", "--json")
    labels = [f"image {number:03}" for number in range(40)]
    assert [row["label"] for row in json.loads(result.stdout)] == csv_labels("out.csv") == labels
    assert {headers["authorization"] for headers in asked.headers} == {"Bearer the-key"}
    assert asked.paths == {"/models/digits@production/predict"}
    assert sorted(asked.images) == labels


def test_after_ctrl_c_what_is_done_is_kept_and_the_rest_can_be_asked(
    asked: Asked, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(image: str) -> None:
        if image == "image 020":
            while "019.png" not in Path("out.csv.partial").read_text():
                released.wait(0.01)
            os.kill(os.getpid(), signal.SIGINT)
            released.wait(60)  # the answer never comes in time

    released = threading.Event()
    asked.before = interrupt
    words = ["predict", str(files(40)), "--url", asked.url, "--out", "out.csv", "--concurrency", "1"]
    assert main(words) == 130
    released.set()
    told = capsys.readouterr().err
    assert "interrupted: 20 of 40 files are done, in out.csv.partial: the same command with --resume goes on" in told
    assert not Path("out.csv").exists()
    assert main(words) == 4
    assert "holds 20 rows" in capsys.readouterr().err

    asked.images.clear()
    asked.before = lambda image: None
    assert main([*words, "--resume"]) == 0
    assert asked.images == [f"image {number:03}" for number in range(20, 40)]
    assert csv_labels("out.csv") == [f"image {number:03}" for number in range(40)]
    assert not Path("out.csv.partial").exists()


def test_what_failed_is_asked_again_and_a_changed_version_is_named(
    asked: Asked, capsys: pytest.CaptureFixture[str]
) -> None:
    asked.before = lambda image: 422 if image == "image 001" else None
    words = ["predict", str(files(3)), "--url", asked.url, "--out", "out.csv"]
    assert main(words) == 1
    assert "001.png" in capsys.readouterr().err
    Path("out.csv").write_text(Path("out.csv").read_text().replace(REPLY.model, "m:0"))
    asked.images.clear()
    asked.before = lambda image: None
    assert main([*words, "--resume"]) == 0
    assert asked.images == ["image 001"]
    assert "2 versions answered, as the column 'model' says: m:0, m:1" in capsys.readouterr().err


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_that_is_about_all_files_ends_the_work(
    asked: Asked, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    asked.before = lambda image: status if image == "image 005" else None
    assert main(["predict", str(files(40)), "--url", asked.url, "--out", "out.csv", "--concurrency", "1"]) == 1
    assert len(asked.images) < 10
    told = capsys.readouterr().err
    assert f"error: {asked.url}/predict: {status}" in told
    assert "5 of 40 files are done, in out.csv.partial" in told


def test_a_server_that_is_not_there_ends_the_work(
    images: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("dlhpc.client.attempts.FIRST_WAIT_S", 1000.0)  # the pause would lead past the deadline
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    assert main(["predict", str(images[0]), "--url", f"http://127.0.0.1:{port}"]) == 1
    assert "cannot be reached" in capsys.readouterr().err
