"""Servers whose number of replicas follows the load, and servers on GPUs: each starts one of its own."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path

import httpx
import pytest

from tests.serving.asgi import body
from tests.serving.test_server import READY_WITHIN_S
from tests.serving.test_server_faults import started

pytestmark = [
    pytest.mark.server,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(sys.platform != "linux", reason="HAProxy comes for Linux, and /proc is looked into"),
]

CLIENTS = 12


class Load:
    """Clients that ask without a pause, until they are told to end; each with a connection of its own."""

    def __init__(self, url: str, clients: int) -> None:
        self.statuses: dict[int, int] = {}
        self.failures: list[str] = []
        self._lock, self._over = threading.Lock(), threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(url,)) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def _ask(self, url: str) -> None:
        with httpx.Client(base_url=url, trust_env=False, timeout=60.0) as client:
            while not self._over.is_set():
                try:
                    status = client.post("/predict", content=body()).status_code
                except httpx.HTTPError as error:
                    self.failures.append(repr(error))
                    continue
                with self._lock:
                    self.statuses[status] = self.statuses.get(status, 0) + 1

    def end(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


def test_load_brings_a_second_replica_and_its_end_takes_it_away_and_no_request_fails(tmp_path: Path) -> None:
    settings = [
        "autoscaling.max_replicas=2", "autoscaling.target_ongoing_requests=1", "autoscaling.look_back_s=2",
        "autoscaling.upscale_delay_s=0.5", "autoscaling.downscale_delay_s=2",
    ]  # fmt: skip
    with started(tmp_path, *settings) as server:
        server.wait_for_line("ready:")
        assert "1 to 2 replica(s)" in server.log.read_text()
        first = server.until_there_are(1)
        one = Load(server.url, 1)  # goes on throughout, and is no reason for a second replica
        many = Load(server.url, CLIENTS)
        both = server.until_there_are(2)
        assert first < both
        assert server.health()["status"] == "ready"
        many.end()
        (left,) = server.until_there_are(1)
        assert left in both
        for load in (one, many):
            load.end()
            assert load.failures == []
            assert set(load.statuses) == {200}
        server.process.terminate()
        assert server.process.wait(READY_WITHIN_S) == 0


def test_a_share_of_a_gpu_that_is_not_there_is_refused_and_one_that_is_there_is_taken(tmp_path: Path) -> None:
    with started(tmp_path, "gpus_per_replica=0.5", "replicas=2", RAY_OVERRIDE_RESOURCES='{"GPU": 0}') as server:
        assert server.process.wait(READY_WITHIN_S) == 2
        told = "gpus_per_replica: 2 replica(s) with 0.5 GPU each need 1, and this machine has 0: set gpus_per_replica=0"
        assert told in server.log.read_text()
        assert "Traceback" not in server.log.read_text()
    # Ray hands out what it is told that there is; JAX computes on the CPU where it finds none of it.
    logical = json.dumps({"GPU": 1})
    with started(
        tmp_path, "gpus_per_replica=0.5", "replicas=2", RAY_OVERRIDE_RESOURCES=logical, CUDA_VISIBLE_DEVICES="0"
    ) as server:
        server.wait_for_line("ready:")
        assert len(server.until_there_are(2)) == 2
        assert httpx.post(f"{server.url}/predict", content=body(), trust_env=False, timeout=60.0).status_code == 200


def test_the_framework_is_measured_once_and_the_precision_told(tmp_path: Path) -> None:
    settings = ["backend=auto", "precision=bfloat16", f"verification.cache_dir={tmp_path / 'cache'}"]
    with started(tmp_path, *settings) as server:
        server.wait_for_line("ready:")
        (first,) = server.health()["models"]
        assert httpx.post(f"{server.url}/predict", content=body(), trust_env=False, timeout=60.0).status_code == 200
        log = server.log.read_text()
        assert f"computes in {first['backend']}: {first['backend_reason']}\n" in log
        assert f"answers in bfloat16 on {first['backend']}: at most " in log
    assert first["backend_reason"].startswith("measured now, ms for 1 and 32 images: flax ")
    assert first["precision"] == "bfloat16"
    assert 1e-6 < first["deviation"] < 0.05
    with started(tmp_path, *settings) as server:
        server.wait_for_line("starting:")
        server.wait_for_line(f"computes in {first['backend']}: measured before")
