"""A model trained in one framework and served by the other answers over HTTP as it does at home."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dlhpc import api
from dlhpc.client import Client
from dlhpc.data.sources import open_dataset
from tests.ports import free_ports

ROOT = Path(__file__).parents[2]


@pytest.mark.server
@pytest.mark.slow
@pytest.mark.parametrize(("config", "served_by"), [("flax_config.yaml", "torch"), ("torch_deepspeed_cnn.yaml", "flax")])
def test_all_test_images_get_the_same_classes(config: str, served_by: str) -> None:
    run = api.load_run(ROOT / "config" / config, overrides=["training.num_epochs=5"])
    artifact = api.train(run)
    images, _ = open_dataset(artifact.manifest.run.data, artifact.manifest.run.model).read("test", np.arange(899))
    at_home = [artifact.classes[index] for index in artifact.predictor(run.backend)(images).argmax(1)]

    port, metrics_port = free_ports(2)
    settings = [f"backend={served_by}", f"port={port}", f"metrics_port={metrics_port}"]
    command = [sys.executable, "-m", "dlhpc.cli.main", "serve", run.resolved_name, "--json"]
    command += [word for setting in settings for word in ("--set", setting)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            ready = json.loads(server.stdout.readline())
            assert ready["backend"] == served_by
            with Client(ready["url"]) as client:
                replies = list(client.predict_many(list(images)))
        finally:
            server.send_signal(signal.SIGTERM)
    assert server.returncode == 0
    assert [getattr(reply, "label", reply) for reply in replies] == at_home
