"""A run publishes into a bucket, and a server on another machine would serve it from there, with no folder between."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from tests.deploy.conftest import ROOT, Environ, free_port

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]
REGISTRY = "s3://models/served"


def test_train_into_and_serve_from_a_bucket(s3: Environ, python: Path, tmp_path: Path) -> None:
    command: list[str | Path] = [python, "-m", "dlhpc.cli.main"]

    def told(*words: str | Path) -> Any:
        done = subprocess.run(
            [*command, *words, "--json"], cwd=tmp_path, env=s3, capture_output=True, text=True, check=False, timeout=250
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    settings = (f"registry.path={REGISTRY}", "training.num_epochs=2", "runs_dir=runs")
    words = [word for setting in settings for word in ("--set", setting)]
    digest = told("train", "--config", ROOT / "config" / "flax_config.yaml", *words)["digest"]
    assert not (tmp_path / "registry").exists()

    images = tmp_path / "images"
    images.mkdir()
    for number, pixels in enumerate(np.round(load_digits().images[:20] * 255 / 16).astype(np.uint8)):
        Image.fromarray(pixels).save(images / f"{number:02}.png")
    computed = told("predict", images, "--registry", REGISTRY)

    port, metrics_port = free_port(), free_port()
    ports = ["--set", f"port={port}", "--set", f"metrics_port={metrics_port}"]
    serve = [*command, "serve", "--registry", REGISTRY, "--json", *ports]
    log = tmp_path / "server.log"
    with (
        log.open("w") as stderr,
        subprocess.Popen(serve, cwd=tmp_path, env=s3, stdout=subprocess.PIPE, stderr=stderr, text=True) as server,
    ):
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            assert line, log.read_text()
            assert digest.removeprefix("sha256:") in json.loads(line)["digest"]
            served = told("predict", images, "--url", f"http://127.0.0.1:{port}")
            server.send_signal(signal.SIGTERM)
            assert server.wait(120) == 0
        finally:
            server.kill()
    assert [each["label"] for each in served] == [each["label"] for each in computed]
    chances = [each["probability"] for each in computed]
    assert [each["probability"] for each in served] == pytest.approx(chances, abs=1e-5)
