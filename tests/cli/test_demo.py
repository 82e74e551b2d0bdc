"""`dlhpc demo` from end to end, with little training and a real server."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from dlhpc.cli.main import main
from tests.ports import free_ports


@pytest.mark.server
def test_trains_exchanges_serves_and_stops(checkout: Path, tmp_path: Path) -> None:
    port, metrics_port = free_ports(2)
    places = ["--dir", str(tmp_path), "--port", port, "--metrics-port", metrics_port]
    words = ["demo", *places, "--set", "training.num_epochs=3", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "dlhpc.cli.main", *words], cwd=checkout, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert [(m["model"], m["reference"]) for m in summary["models"]] == [
        ("FlaxMLP", "digits-mlp:1"),
        ("TorchDeepSpeedCNN", "digits-cnn-torch:1"),
    ]
    for model in summary["models"]:
        assert model["same_classes"] == "899 of 899"
        assert model["parity"] < 1e-5
        assert model["accuracy"] > 0.5
    serving = summary["serving"]
    assert serving["agree_offline"] == serving["requests"] == 400
    assert serving["counted_by_metrics"] == 401
    assert "drained: nothing is in flight any more" in done.stderr
    for number in (port, metrics_port):
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", int(number))) != 0


def test_away_from_the_shipped_runs_it_says_where_to_go(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo"]) == 4
    assert "run `dlhpc demo` from the folder" in capsys.readouterr().err


def test_a_registry_that_no_demo_made_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    Path("registry").mkdir()
    assert main(["demo", "--dir", "."]) == 4
    assert "no demo made" in capsys.readouterr().err
    assert Path("registry").exists()
