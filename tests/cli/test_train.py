"""`dlhpc train` and the launch scripts, as a user runs them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from dlhpc import api
from dlhpc.cli.main import main
from dlhpc.errors import Interrupted
from dlhpc.training.checkpoint import find_last, read_checkpoint
from dlhpc.training.events import Stepped, Stop, wants
from dlhpc.training.history import read_history
from dlhpc.training.run_folder import list_paths, read_run

CONFIG = """\
name: ten
model: {name: FlaxMLP, hidden_sizes: [16]}
data: {source: digits}
training: {num_epochs: 2, learning_rate: 0.02}
"""


@pytest.fixture
def config() -> str:
    Path("run.yaml").write_text(CONFIG)
    return "run.yaml"


def the_run() -> Path:
    (path,) = list_paths(Path("runs"))
    return path


def train(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """The result of `dlhpc train ... --json`, which must be all that is on stdout."""
    status = main(["train", *arguments, "--json"])
    captured = capsys.readouterr()
    assert status == 0, captured.err
    result: dict[str, Any] = json.loads(captured.out)
    return result


def refused(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 2) -> str:
    """What stderr says when the command is refused before anything is started."""
    assert main(["train", *arguments]) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    assert not Path("runs").exists()
    return captured.err


def test_a_file_is_trained_and_the_result_summed_up(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", config]) == 0
    captured = capsys.readouterr()
    lines = dict(line.split(":", 1) for line in captured.out.splitlines())
    assert lines["model"].strip() == "FlaxMLP on digits"
    assert lines["published"].strip() == "ten:1 in registry"
    assert lines["run"].strip() == str(the_run())
    assert lines["validation"].strip().startswith("accuracy 0.")
    assert lines["next"].strip() == "dlhpc evaluate ten:1"
    assert "epoch 2/2  validation loss" in captured.err


def test_json_is_all_of_stdout_and_quiet_all_of_stderr(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--config", config, "--set", "training.num_epochs=1", "--json", "--quiet"]) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert (result["steps"], result["epochs"], result["reference"]) == (13, 1, "ten:1")
    assert result["run"] == str(the_run())
    assert captured.err == ""


def test_without_publication_there_is_no_next_command(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    short = ["--set", "training.num_epochs=1", "--set", "registry.publish=false", "--set", "data.split.validation=0"]
    assert main(["train", config, *short, "--quiet"]) == 0
    out = capsys.readouterr().out
    assert "published:  no" in out
    assert "validation: none" in out
    assert "next:" not in out


def make_images(folder: Path) -> None:
    """Two classes that a child could tell apart, in PNG and JPEG, of several sizes."""
    generator = np.random.default_rng(0)
    for label, name in enumerate(("dark", "light")):
        (folder / name).mkdir(parents=True)
        for number in range(20):
            pixels = generator.integers(0, 100, (20 + number, 30, 3), dtype=np.uint8) + np.uint8(150 * label)
            suffix = "png" if number % 2 else "jpg"
            Image.fromarray(pixels).save(folder / name / f"{number}.{suffix}")


def test_a_folder_of_images_needs_no_further_setting(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    make_images(Path("photos"))
    Path("photos/dark/broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno image")
    assert main(["train", "--data", "photos", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["model"], result["data"]) == ("FlaxCNN", "image_folder")
    assert result["validation"]["accuracy"] == 1.0
    assert "photos/dark/broken.png" in caplog.text


def test_a_corrupt_image_is_refused_when_that_is_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    make_images(Path("photos"))
    Path("photos/dark/broken.png").write_bytes(b"no image")
    assert "broken.png" in refused(capsys, "--data", "photos", "--set", "data.on_corrupt=refuse", status=1)


def test_an_array_file(capsys: pytest.CaptureFixture[str]) -> None:
    labels = np.arange(90) % 3
    pixels = (np.random.default_rng(0).integers(0, 60, (90, 4, 4, 1)) + labels[:, None, None, None] * 90).astype(
        np.uint8
    )
    np.savez("data.npz", inputs=pixels, labels=labels)
    result = train(capsys, "--data", "data.npz", "--set", "model.name=FlaxMLP", "--set", "model.hidden_sizes=[8]")
    assert (result["model"], result["data"], result["epochs"]) == ("FlaxMLP", "arrays", 20)


def test_a_source_is_enough(capsys: pytest.CaptureFixture[str]) -> None:
    short = ["--set", "training.num_epochs=1", "--set", "model.channels=[4]", "--set", "model.strides=[2]"]
    assert train(capsys, "--set", "data.source=digits", *short)["model"] == "FlaxCNN"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "nothing to train on"),
        (["run.yaml", "--config", "run.yaml"], "given twice"),
        (["--data", "run.yaml"], "expected a folder"),
        (["--data", "nowhere"], "nowhere"),
        (["run.yaml", "--set", "training.epochs=3"], "num_epochs"),
        (["run.yaml", "--expect-backend", "torch"], "src/training/train_flax.py"),
        (["run.yaml", "--no-such-option"], "--no-such-option"),
    ],
)
def test_what_cannot_work_is_refused(
    config: str, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert said in refused(capsys, *arguments)


def test_a_file_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert "nowhere.yaml" in refused(capsys, "nowhere.yaml", status=4)
    assert "no run yet" in refused(capsys, "--resume", "latest", status=4)


def test_a_deepspeed_file_is_merged_and_contradictions_refused(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("ds.json").write_text('{"train_batch_size": 128, "optimizer": {"params": {"lr": 0.5}}}')
    error = refused(capsys, config, "--deepspeed_config", "ds.json")
    assert "ds.json:1:" in error
    assert "run.yaml:4:" in error
    Path("ds.json").write_text('{"train_batch_size": 128}')
    assert train(capsys, config, "--deepspeed_config", "ds.json", "--local_rank=0")["steps"] == 2 * 7


LONG = ["--set", "training.num_epochs=2000"]


def start(*command: str) -> subprocess.Popen[str]:
    """A long training process that has shown its first evaluation. Its output is read as it comes."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if "validation loss" in line:
            return process
    pytest.fail("".join(seen))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_writes_a_checkpoint_and_says_how_to_go_on(
    config: str, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    process = start(sys.executable, "-m", "dlhpc.cli.main", "train", config, *LONG)
    process.send_signal(number)
    out, error = process.communicate(timeout=120)
    assert process.returncode == 130
    assert out == ""
    assert f"{number.name}: writing a checkpoint" in error
    path = the_run()
    steps = read_checkpoint(find_last(path / "checkpoints")).manifest.step
    assert f"interrupted after step {steps}; go on with: dlhpc train --resume {path}" in error
    assert read_history(path)[-1]["step"] == steps
    assert main(["runs", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["status"] == "interrupted"


def test_a_second_ctrl_c_ends_at_once_and_leaves_nothing_half(config: str) -> None:
    process = start(sys.executable, "-m", "dlhpc.cli.main", "train", config, *LONG)
    os.kill(process.pid, signal.SIGSTOP)  # both signals are there when it wakes
    process.send_signal(signal.SIGINT)
    os.kill(process.pid, signal.SIGCONT)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    assert process.returncode == 130
    read_checkpoint(find_last(the_run() / "checkpoints"))


def test_an_interrupted_run_goes_on_by_name_and_in_the_other_framework(
    config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    process = start(sys.executable, "-m", "dlhpc.cli.main", "train", config, "--set", "training.num_epochs=40")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    path = the_run()
    copy = Path("runs") / path.name.replace("ten-", "two-")
    shutil.copytree(path, copy, symlinks=True)
    result = train(capsys, "--resume", "latest", "--set", "model.name=TorchDeepSpeedMLP")
    assert (result["model"], result["run"], result["steps"]) == ("TorchDeepSpeedMLP", str(copy), 40 * 13)
    assert read_run(copy).backend == "torch"
    checkpoint = find_last(path / "checkpoints")
    assert main(["train", "--resume", str(checkpoint), "--set", "training.batch_size=32"]) == 2
    assert "training.batch_size: 32 came" in capsys.readouterr().err
    assert train(capsys, "--resume", str(checkpoint))["run"] == str(path)
    assert main(["train", "--resume", path.name]) == 2
    assert "has finished" in capsys.readouterr().err
    changed = [config, "--resume", path.name, "--set", "training.num_epochs=40"]
    assert main(["train", *changed]) == 2


@pytest.mark.slow
def test_launched_processes_are_interrupted_together_and_resumed_alone(
    config: str, checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    launch = [
        str(Path(sys.executable).with_name("deepspeed")),
        "--num_gpus",
        "2",
        "--master_port",
        "29671",
        str(checkout / "src/training/train_torch.py"),
    ]
    more = ["--config", config, "--set", "model.name=TorchDeepSpeedMLP", *LONG, "--quiet"]
    process = subprocess.Popen([*launch, *more], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 200
    while not list(Path("runs").glob("*/checkpoints/last")):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.2)
    (launcher,) = [child for child in psutil.Process(process.pid).children() if "launch" in " ".join(child.cmdline())]
    launcher.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=120)
    path = the_run()
    assert f"or alone: dlhpc train --resume {path}" in out
    manifest = read_checkpoint(find_last(path / "checkpoints")).manifest
    assert manifest.world_size == 2
    stop = wants(Stepped)(lambda event: Stop("test", True) if event.step >= manifest.step + 3 else None)
    with pytest.raises(Interrupted):
        api.train(read_run(path), resume=path, callbacks=[stop])
    alone = read_checkpoint(find_last(path / "checkpoints")).manifest
    assert (alone.step, alone.world_size) == (manifest.step + 3, 1)
