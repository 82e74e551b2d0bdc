"""The real server, on Ray Serve behind HAProxy, from its start to its end. The last test here stops it."""

from __future__ import annotations

import http.client
import ipaddress
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from dlhpc.api import Registry
from dlhpc.client import Client
from dlhpc.data.sources import open_dataset
from dlhpc.registry.artifact import Artifact, new_artifact
from dlhpc.serving.api_keys import add_key, new_key
from dlhpc.serving.processes import marked
from dlhpc.spec.data import DigitsSpec
from dlhpc.spec.model import MLPSpec
from dlhpc.spec.rates import RateSpec
from dlhpc.spec.run import RunSpec
from dlhpc.weights.init import initial_weights
from dlhpc.weights.table import param_table
from tests.registry.test_signing import generated
from tests.serving.asgi import body, png
from tests.serving.load import under_load
from tests.serving.process_tree import listening, tree

pytestmark = [
    pytest.mark.server,
    pytest.mark.timeout(600),
    pytest.mark.skipif(sys.platform != "linux", reason="HAProxy comes for Linux, and /proc is looked into"),
]

READY_WITHIN_S = 240.0
STOP_WITHIN_S = 120.0
ROOM = 4
"""Predictions that each of the two replicas takes at a time."""
MOST_BYTES = 300_000


@dataclass
class Server:
    """A running server, and what it serves."""

    artifact: Artifact
    process: subprocess.Popen[str]
    port: int
    metrics_port: int
    log: Path
    keys: dict[str, str]
    """Name -> API key."""
    told: dict[str, Any] = field(default_factory=dict)
    """What --json printed."""

    def __post_init__(self) -> None:
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = httpx.Client(base_url=self.url, trust_env=False, timeout=60.0)
        base_url = f"http://127.0.0.1:{self.metrics_port}"
        headers = {"authorization": f"Bearer {self.keys['grafana']}"}
        self.metrics = httpx.Client(base_url=base_url, headers=headers, trust_env=False, timeout=60.0)

    def predict(self, content: bytes, **headers: str) -> httpx.Response:
        return self.http.post("/predict", content=content, headers={"content-type": "application/json", **headers})

    def folder(self) -> str:
        """The server's own folder, by the command lines of its processes."""
        lines = " ".join(Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ") for pid in tree(self.process.pid))
        found = re.search(r"/tmp/dlhpc-\w+|/\S*/dlhpc-\w{8}(?=/)", lines)
        assert found is not None
        return found[0]


def artifact_of(root: Path, seed: int = 3) -> Artifact:
    """An untrained model of digits, made by torch, and published as the next version of `digits`."""
    model = MLPSpec(num_classes=10, input_shape=(8, 8, 1), hidden_sizes=(32,))
    run = RunSpec(name="digits", backend="torch", model=model, data=DigitsSpec())
    registry = Registry(root)
    classes = [f"digit-{number}" for number in range(10)]
    weights = initial_weights(param_table(model), seed=seed)
    artifact = new_artifact(
        run, weights, classes=classes, metrics={}, data_fingerprint="none", load_backend=registry.load_backend
    )
    registry.publish(artifact, "digits")
    return artifact


BURST = 6
"""Requests that the key named `slow` is good for, over both replicas."""


def keys_in(path: Path) -> dict[str, str]:
    """A file of API keys, and what their holders have."""
    given = {}
    slow = RateSpec(per_second=0.001, burst=BURST)
    for name, scope, rate in (("grafana", "metrics", None), ("slow", "predict", slow)):
        given[name], kept = new_key(name, [scope], datetime.now(UTC), rate=rate)
        add_key(path, kept)
    return given


def free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two replicas that compute in Flax what torch made and somebody signed, with narrow limits."""
    folder = tmp_path_factory.mktemp("server")
    artifact = artifact_of(folder / "registry")
    private, public = generated(folder)
    Registry(folder / "registry").sign("digits", private)
    Registry(folder / "registry").set_alias("digits", "production", "digits:1")
    port, metrics_port = free_ports(2)
    settings = [
        f"port={port}", f"metrics_port={metrics_port}", "backend=flax", "replicas=2", f"limits.max_concurrent={ROOM}",
        f"auth.keys={folder / 'keys.json'}", "auth.open_predict=true", "cache.max_bytes=1000000",
        f"verification.require_signature=[{public.name}]", "verification.cache_dir=cache",
        f"limits.max_body_bytes={MOST_BYTES}", "limits.header_timeout_s=2", "limits.deadline_s=60",
        "watch_s=0.1",
    ]  # fmt: skip
    words = [word for setting in settings for word in ("--set", setting)]
    command = [
        sys.executable,
        "-m",
        "dlhpc.cli.main",
        "serve",
        "digits@production",
        "--registry",
        str(folder / "registry"),
        "--json",
    ]
    log = folder / "log"
    keys = keys_in(folder / "keys.json")
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [*command, *words],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
            cwd=folder,  # which is not the replicas'
        )
    running = Server(artifact, process, port, metrics_port, log, keys)
    try:
        running.told = json.loads(first_line(process))
        yield running
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_WITHIN_S)
        process.kill()
        print(log.read_text())


def first_line(process: subprocess.Popen[str]) -> str:
    """The first line of its output, for which it has READY_WITHIN_S."""
    assert process.stdout is not None
    timer = threading.Timer(READY_WITHIN_S, process.kill)
    timer.start()
    try:
        return process.stdout.readline()
    finally:
        timer.cancel()


def test_it_says_when_it_is_ready(server: Server) -> None:
    digest = f"sha256:{server.artifact.digest}"
    assert server.told == {
        "url": server.url,
        "metrics": f"http://127.0.0.1:{server.metrics_port}/metrics",
        "model": "digits:1",
        "digest": digest,
        "backend": "flax",
        "models": {"digits": digest},
    }
    assert f"ready: POST {server.url}/predict" in server.log.read_text()


def test_served_classes_are_those_that_the_model_gives_offline(server: Server) -> None:
    pixels, _ = open_dataset(DigitsSpec(), server.artifact.manifest.run.model).read("test", np.arange(899))
    offline = server.artifact.predictor("torch")(pixels)
    with Client(server.url) as client:
        replies = list(client.predict_many(list(pixels), concurrency=ROOM))
    for reply, row in zip(replies, offline, strict=True):
        assert not isinstance(reply, Exception), reply
        assert reply.index == row.argmax()
        assert list(reply.probabilities.values()) == pytest.approx(row.tolist(), abs=1e-6)
        assert (reply.model, reply.digest) == ("digits:1", f"sha256:{server.artifact.digest}")


def test_the_placeholder_is_told_what_to_send(server: Server) -> None:
    answer = server.predict(b'{"image": "base64_encoded_image_data"}')
    assert (answer.status_code, answer.json()["code"]) == (422, "bad_base64")
    assert "base64 -w0 FILE" in answer.json()["detail"]
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"{", 400, "bad_json"),
        (b"", 400, "bad_json"),
        (b"{}", 422, "invalid_request"),
        (body(b"no image"), 422, "bad_image"),
        (body(png(size=(6000, 6000))), 413, "image_too_large"),
        (b" " * (MOST_BYTES + 1), 413, "body_too_large"),
        (b" " * 60_000_000, 413, "body_too_large"),
    ],
)
def test_a_faulty_body_is_refused(server: Server, content: bytes, status: int, code: str) -> None:
    answer = server.predict(content)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_a_body_of_unknown_length_is_refused_while_it_comes(server: Server) -> None:
    def parts() -> Iterator[bytes]:
        for _ in range(100):
            yield b" " * 100_000

    answer = server.http.post("/predict", content=parts(), headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/predict", 405), ("GET", "/", 404), ("POST", "//predict", 404)]
)
def test_other_paths_and_methods_are_refused(server: Server, method: str, path: str, status: int) -> None:
    answer = server.http.request(method, f"{server.url}{path}")
    assert answer.status_code == answer.json()["status"] == status


def test_a_request_id_comes_back_once(server: Server) -> None:
    answer = server.predict(body(), **{"x-request-id": "mine-7"})
    assert answer.headers.get_list("x-request-id") == ["mine-7"]
    assert answer.json()["request_id"] == "mine-7"


def test_metrics_need_a_key_with_their_scope(server: Server) -> None:
    without = httpx.get(f"{server.metrics.base_url}/metrics", trust_env=False, timeout=60.0)
    assert (without.status_code, without.json()["code"]) == (401, "unauthenticated")
    assert without.headers["www-authenticate"].startswith("Bearer")
    wrong = server.metrics.get("/metrics", headers={"authorization": f"Bearer {server.keys['slow']}"})
    assert (wrong.status_code, wrong.json()["code"]) == (403, "forbidden")
    assert server.metrics.get("/metrics").status_code == 200


def test_a_wrong_key_is_refused_although_predictions_need_none(server: Server) -> None:
    answer = server.predict(body(), authorization="Bearer dlhpc_no")
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")


def test_replicas_together_keep_a_keys_limit(server: Server) -> None:
    answers = [server.predict(body(), authorization=f"Bearer {server.keys['slow']}") for _ in range(6 * BURST)]
    assert Counter(answer.status_code for answer in answers) == {200: BURST, 429: 5 * BURST}
    assert answers[-1].json()["code"] == "rate_limited"
    assert int(answers[-1].headers["retry-after"]) > 100
    assert answers[-1].headers["ratelimit-policy"] == f'"client";q={BURST};w=6000'


def test_what_was_asked_before_is_answered_from_a_cache(server: Server) -> None:
    answers = [server.predict(body(png(77))) for _ in range(3)]  # two replicas: one is asked twice
    told = [answer.headers["cache-status"] for answer in answers]
    assert told[0] == "dlhpc; fwd=miss; stored"
    assert "dlhpc; hit" in told
    assert len({json.dumps(answer.json()["probabilities"]) for answer in answers}) == 1
    for answer in answers:
        assert answer.json()["request_id"] == answer.headers["x-request-id"]


def half_sent(server: Server) -> http.client.HTTPConnection:
    """A prediction of which the last byte is not sent yet."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60.0)
    connection.putrequest("POST", "/predict")
    connection.putheader("Content-Length", str(len(body())))
    connection.endheaders(body()[:-1])
    return connection


def until_in_flight(server: Server, count: int) -> None:
    while server.metrics.get("/health").json()["in_flight"] != count:
        time.sleep(0.02)


def test_above_its_limit_it_refuses_at_once_and_recovers(server: Server) -> None:
    waiting = [half_sent(server) for _ in range(2 * ROOM)]
    until_in_flight(server, 2 * ROOM)
    refused = server.predict(body())
    assert (refused.status_code, refused.json()["code"], refused.headers["retry-after"]) == (503, "overloaded", "1")
    assert server.metrics.get("/readyz").status_code == 503
    assert server.metrics.get("/livez").status_code == 200
    for connection in waiting:
        connection.send(body()[-1:])
    assert [connection.getresponse().status for connection in waiting] == [200] * len(waiting)
    until_in_flight(server, 0)
    assert server.predict(body()).status_code == 200


def test_slow_headers_are_not_waited_for(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=60.0) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: ")
        assert connection.recv(100).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize(("path", "status"), [("/livez", 200), ("/readyz", 200), ("/health", 200)])
def test_health_is_told_on_both_ports(server: Server, path: str, status: int) -> None:
    assert server.http.get(path).status_code == server.metrics.get(path).status_code == status


def test_health_tells_what_is_served(server: Server) -> None:
    told = server.metrics.get("/health").json()
    assert (told["status"], told["replicas"], told["in_flight"]) == ("ready", 2, 0)
    assert told["models"][0]["name"] == "digits:1"
    assert told["models"][0]["classes"] == list(server.artifact.classes)
    assert told["models"][0]["verification"] == "cached"
    assert "not as it was left here" not in server.log.read_text()
    cached = {path.name for path in (server.log.parent / "cache").iterdir() if not path.suffix}
    assert cached == set(server.artifact.manifest.digests.values())


def counted(server: Server, route: str, status: str) -> float:
    text = server.metrics.get("/metrics").text
    pattern = rf'^dlhpc_requests_total{{replica="\w+",route="{route}",status="{status}"}} (\S+)$'
    return sum(float(value) for value in re.findall(pattern, text, re.MULTILINE))


def test_metrics_count_what_was_answered(server: Server) -> None:
    before = counted(server, "/predict", "200"), counted(server, "/predict", "422")
    with ThreadPoolExecutor(ROOM) as pool:
        assert {answer.status_code for answer in pool.map(server.predict, [body()] * 12)} == {200}
    server.predict(b"{}")
    assert (counted(server, "/predict", "200"), counted(server, "/predict", "422")) == (before[0] + 12, before[1] + 1)
    text = server.metrics.get("/metrics").text
    assert len(re.findall(rf'^dlhpc_model_info{{.*digest="sha256:{server.artifact.digest}".*}} 1.0$', text, re.M)) == 2
    assert "\ndlhpc_replicas 2.0\n" in text
    assert "\ndlhpc_ready 1.0\n" in text


def test_nothing_listens_beyond_the_loopback_interface(server: Server) -> None:
    found = listening(tree(server.process.pid))
    assert {("127.0.0.1", server.port), ("127.0.0.1", server.metrics_port)} <= found
    assert [each for each in found if not ipaddress.ip_address(each[0]).is_loopback] == []


def test_a_moved_alias_is_followed_under_load_and_what_is_not_signed_is_not(server: Server) -> None:
    folder = server.log.parent
    registry, newer = Registry(folder / "registry"), artifact_of(folder / "registry", seed=4)
    registry.sign("digits:2", next(folder.glob("*.pem")))
    with under_load(server.url, [server.artifact, newer]) as load:
        registry.set_alias("digits", "production", "digits:2")
        load.until_answered_by(newer)
    assert load.faults == []
    artifact_of(folder / "registry", seed=5)
    registry.set_alias("digits", "production", "digits:3")
    while not (faults := server.metrics.get("/health").json()["faults"]):
        time.sleep(0.02)
    assert "digits@production" in faults[0]
    assert "is not signed by" in faults[0]
    assert server.metrics.get("/readyz").status_code == 200
    assert server.predict(body()).json()["digest"] == f"sha256:{newer.digest}"
    text = server.metrics.get("/metrics").text
    assert '\ndlhpc_model_fault{model="digits"} 1.0\n' in text
    assert '\ndlhpc_model_changes_total{model="digits"} 1.0\n' in text


def test_sigterm_under_load_drops_nothing_and_leaves_nothing(server: Server) -> None:
    folder = server.folder()
    assert Path(folder).is_dir()
    accepted = half_sent(server)
    until_in_flight(server, 1)
    outcomes: Counter[str] = Counter()
    many = threading.Event()

    def ask_until_refused() -> None:
        with httpx.Client(trust_env=False, timeout=60.0) as client:
            while True:
                try:
                    answer = client.post(f"{server.url}/predict", content=body())
                except httpx.ConnectError:
                    outcomes["not accepted"] += 1
                    return
                except httpx.HTTPError as error:
                    outcomes[f"dropped: {error!r}"] += 1
                    return
                outcomes[str(answer.status_code)] += 1
                if outcomes["200"] >= 50:
                    many.set()
                if answer.status_code == 503:
                    assert answer.json()["code"] == "draining"
                    assert answer.headers["connection"] == "close"
                    return

    threads = [threading.Thread(target=ask_until_refused) for _ in range(ROOM)]
    for thread in threads:
        thread.start()
    assert many.wait(60.0)
    server.process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join(60.0)
    assert server.metrics.get("/readyz").status_code == 503
    accepted.send(body()[-1:])  # it was accepted before the signal, so it is answered after
    assert accepted.getresponse().status == 200

    assert server.process.wait(STOP_WITHIN_S) == 0
    assert set(outcomes) <= {"200", "503", "not accepted"}, outcomes
    assert outcomes["503"] > 0
    assert "drained: nothing is in flight any more" in server.log.read_text()
    assert marked(folder) == []
    assert not Path(folder).exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port), timeout=60.0)
