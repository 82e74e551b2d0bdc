"""A run publishes into a bucket, and a server on another machine would serve it from there, with no folder between."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dlhpc.data.sources import open_dataset
from dlhpc.spec.data import DigitsSpec
from tests.deploy.conftest import ROOT, Environ, free_port

REGISTRY = "s3://models/served"


@pytest.mark.timeout(600)
def test_train_into_and_serve_from_a_bucket(s3: Environ, python: Path, tmp_path: Path) -> None:
    command = [python, "-m", "dlhpc.cli.main"]
    train = [*command, "train", "--config", ROOT / "config" / "flax_config.yaml", "--set", f"registry.path={REGISTRY}"]
    done = subprocess.run(
        [*train, "--set", "training.num_epochs=2", "--set", f"runs_dir={tmp_path / 'runs'}", "--json"],
        cwd=tmp_path,
        env=s3,
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    digest = json.loads(done.stdout)["digest"]
    assert not (tmp_path / "registry").exists()

    images = tmp_path / "images"
    images.mkdir()
    for number, pixels in enumerate(open_dataset(DigitsSpec()).images[:20]):
        Image.fromarray(np.squeeze(pixels)).save(images / f"{number:02}.png")
    offline = subprocess.run(
        [*command, "predict", images, "--registry", REGISTRY, "--json"],
        cwd=tmp_path,
        env=s3,
        capture_output=True,
        text=True,
        check=True,
        timeout=250,
    )

    port, metrics_port = free_port(), free_port()
    ports = ["--set", f"port={port}", "--set", f"metrics_port={metrics_port}"]
    with (tmp_path / "server.log").open("w+") as log:
        server = subprocess.Popen(
            [*command, "serve", "--registry", REGISTRY, "--json", *ports],
            cwd=tmp_path,
            env=s3,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            log.seek(0)
            assert line, log.read()
            assert digest in json.loads(line)["digest"]
            online = subprocess.run(
                [*command, "predict", images, "--url", f"http://127.0.0.1:{port}", "--json"],
                cwd=tmp_path,
                env=s3,
                capture_output=True,
                text=True,
                check=True,
                timeout=250,
            )
            server.send_signal(signal.SIGTERM)
            assert server.wait(120) == 0
        finally:
            if server.poll() is None:
                server.kill()
                server.wait()
    served, computed = json.loads(online.stdout), json.loads(offline.stdout)
    assert [each["label"] for each in served] == [each["label"] for each in computed]
    chances = [each["probability"] for each in computed]
    assert [each["probability"] for each in served] == pytest.approx(chances, abs=1e-5)
