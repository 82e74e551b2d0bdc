"""Clients of other makers, unmodified, against a real server."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import numpy as np
import pytest

from dlhpc.registry.artifact import Artifact
from dlhpc.spec.wire import DEADLINE_MS
from tests.serving.asgi import png
from tests.serving.test_server import STOP_WITHIN_S, artifact_of, first_line, free_ports

pytestmark = [
    pytest.mark.server,
    pytest.mark.timeout(900),
    pytest.mark.skipif(sys.platform != "linux", reason="HAProxy comes for Linux"),
]

SEED = 20261124
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
EXAMPLES = 25
"""Requests that schemathesis makes of each kind for each operation."""


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return artifact_of(tmp_path_factory.mktemp("registry") / "registry")


@pytest.fixture(scope="module")
def url(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server as it comes, with one replica."""
    folder = tmp_path_factory.mktemp("served")
    artifact_of(folder / "registry")
    port, metrics_port = free_ports(2)
    words = [f"--set={setting}" for setting in (f"port={port}", f"metrics_port={metrics_port}", "backend=flax")]
    command = [sys.executable, "-m", "dlhpc.cli.main", "serve", "digits", "--json", *words]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
        )
    try:
        told: dict[str, str] = json.loads(first_line(process))
        yield told["url"]
    finally:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_WITHIN_S)
        process.kill()
        print((folder / "log").read_text())


@pytest.fixture(scope="module")
def clients(environments: ModuleType) -> Path:
    """The Python of the environment of other makers' clients."""
    found: Path = environments.python_of("clients")
    return found


def environ() -> dict[str, str]:
    """The environment without proxies, which would be asked for the loopback interface too."""
    return {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}


def test_tritons_client(url: str, artifact: Artifact, clients: Path, tmp_path: Path, checkout: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), np.uint8)
    np.save(tmp_path / "images.npy", images)
    script = checkout / "tests" / "deploy" / "triton_session.py"
    command = [clients, script, url.removeprefix("http://"), "digits", tmp_path / "images.npy"]
    done = subprocess.run(command, env=environ(), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    offline = artifact.predictor("torch")(images)
    for way in ("binary", "json", "floats", "default"):
        assert np.allclose(told[way], offline, atol=1e-5), way
    assert [told[name] for name in ("live", "ready", "model_ready", "version_ready", "unknown_ready")] == [True] * 4 + [
        False
    ]
    assert told["server"]["name"] == "dlhpc"
    assert told["model"]["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, 8, 8, 1]}]
    assert told["id"] == "mine"
    best = offline.argmax(axis=1)
    assert [text.split(":")[1:] for text in told["classes"]] == [[str(index), f"digit-{index}"] for index in best]
    assert told["async"] == [5] * 8
    status, message = told["error"]
    assert status == "422"
    assert "expected [images, 8, 8, 1]" in message


def curl(*words: str) -> tuple[int, Any]:
    """A request; the status and what was told, JSON where it is."""
    program = shutil.which("curl")
    assert program is not None, "curl is needed"
    done = subprocess.run(
        [program, "--silent", "--show-error", "--max-time", "60", "--write-out", "\n%{http_code}", *words],
        env=environ(), capture_output=True, text=True, timeout=90, check=True,
    )  # fmt: skip
    content, _, status = done.stdout.rpartition("\n")
    return int(status), json.loads(content) if content.startswith("{") else content


def test_a_session_of_curl_as_kserves_documents_have_it(url: str, artifact: Artifact, tmp_path: Path) -> None:
    assert curl(f"{url}/v2/health/live") == (200, {"live": True})
    assert curl(f"{url}/v2/health/ready") == (200, {"ready": True})
    status, told = curl(f"{url}/v2/models/digits")
    assert (status, told["versions"]) == (200, ["1"])
    assert curl(f"{url}/v2/models/digits/ready")[0] == 200
    zeros = {"inputs": [{"name": "image", "shape": [1, 8, 8, 1], "datatype": "FP32", "data": [0.0] * 64}]}
    (tmp_path / "input.json").write_text(json.dumps(zeros))
    posted = ["-H", "Content-Type: application/json", "-d", f"@{tmp_path}/input.json"]
    for version in ("", "/versions/1", f"/versions/sha256:{artifact.digest}"):
        status, told = curl(*posted, f"{url}/v2/models/digits{version}/infer")
        assert (status, told["model_name"], told["model_version"]) == (200, "digits", "1")
        (output,) = told["outputs"]
        offline = artifact.predictor("torch")(np.zeros((1, 8, 8, 1), np.uint8))[0]
        assert np.allclose(output["data"], offline, atol=1e-5)
    status, told = curl(*posted, f"{url}/v2/models/other/infer")
    assert (status, told["code"]) == (404, "unknown_model")
    assert set(told) == {"error", "code", "request_id"}


def test_curl_sends_images_in_every_way(url: str, tmp_path: Path) -> None:
    file = tmp_path / "digit.png"
    file.write_bytes(png(90, (8, 8)))
    (tmp_path / "body.json").write_text(json.dumps({"image": base64.b64encode(file.read_bytes()).decode()}))
    ways = [
        ["-H", "Content-Type: application/json", "-d", f"@{tmp_path}/body.json"],
        ["-H", "Content-Type: image/png", "--data-binary", f"@{file}"],
        ["-H", "Content-Type: application/octet-stream", "-T", str(file), "-X", "POST"],
        ["-F", f"image=@{file}"],
    ]
    replies = [curl(*way, f"{url}/predict") for way in ways]
    assert {status for status, _ in replies} == {200}
    assert len({json.dumps(told["probabilities"]) for _, told in replies}) == 1
    status, told = curl("-F", f"images=@{file}", "-F", "images=@/dev/null", f"{url}/predict")
    assert status == 200
    assert told["predictions"][0]["probabilities"] == replies[0][1]["probabilities"]
    assert told["predictions"][1]["error"]["code"] == "bad_image"


def test_a_trace_goes_through_the_proxy(url: str) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01", "tracestate": "a=1"}
    answer = httpx.get(f"{url}/livez", headers=headers, trust_env=False, timeout=60.0)
    assert answer.headers["traceresponse"].split("-")[1] == trace
    assert answer.headers["tracestate"] == "a=1"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/models/../predict", 404),
        ("/models//predict", 404),
        ("/models/digits%2fpredict", 404),
        ("/v2/models/digits%00/ready", 404),
        ("/v2/models/%2e%2e/ready", 404),
        ("/v2/models/" + "a" * 4000, 404),
        ("/v2/models/d%69gits/ready", 200),
    ],
)
def test_path_tricks_find_nothing(url: str, path: str, status: int) -> None:
    assert curl("--path-as-is", f"{url}{path}")[0] == status


def test_schemathesis_finds_no_server_error_and_nothing_untold(url: str, clients: Path, tmp_path: Path) -> None:
    # Whoever says that it waits for one millisecond is rightly told 504: the deadline is a sane one.
    command = [
        clients, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", "--checks", CHECKS,
        "--phases", "examples,coverage,fuzzing", "--max-examples", str(EXAMPLES), "--seed", str(SEED),
        "--generation-deterministic", "--request-timeout", "60", "--no-color", "-H", f"{DEADLINE_MS}: 30000",
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=tmp_path, env=environ(), capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-5_000:]
