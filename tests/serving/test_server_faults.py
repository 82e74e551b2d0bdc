"""Servers that fail, and servers that lose a replica: each starts one of its own."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from dlhpc.client import Client, RequestError
from tests.serving.asgi import body, png
from tests.serving.process_tree import tree
from tests.serving.test_server import READY_WITHIN_S, STOP_WITHIN_S, artifact_of, free_ports

pytestmark = [
    pytest.mark.server,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(sys.platform != "linux", reason="HAProxy comes for Linux, and /proc is looked into"),
]


class Started:
    """A server that was started; it may never become ready."""

    program = "dlhpc.cli.main"

    def __init__(self, folder: Path, *settings: str, **environ: str) -> None:
        artifact_of(folder / "registry")
        port, metrics_port = free_ports(2)
        self.url, self.log = f"http://127.0.0.1:{port}", folder / "log"
        self.metrics_url = f"http://127.0.0.1:{metrics_port}"
        words = [f"port={port}", f"metrics_port={metrics_port}", "backend=flax", *settings]
        self.process = subprocess.Popen(
            [sys.executable, "-m", self.program, "serve", *(word for each in words for word in ("--set", each))],
            cwd=folder,
            env={**os.environ, **environ},
            stderr=self.log.open("w"),
            start_new_session=True,
        )

    def wait_for_line(self, beginning: str) -> None:
        end = time.monotonic() + READY_WITHIN_S
        while not any(line.startswith(beginning) for line in self.log.read_text().splitlines()):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.05)

    def replicas(self) -> set[int]:
        """The replicas' processes."""
        return {
            pid for pid in tree(self.process.pid) if b"ray::ServeReplica" in Path(f"/proc/{pid}/cmdline").read_bytes()
        }

    def replica(self) -> int:
        (pid,) = self.replicas()
        return pid

    def health(self) -> dict[str, Any]:
        """What the supervisor says of it."""
        answer = httpx.get(f"{self.metrics_url}/health", trust_env=False, timeout=60.0)
        told: dict[str, Any] = answer.json()
        return told

    def until_there_are(self, count: int) -> set[int]:
        """Wait for so many replicas that answer; gives their processes."""
        end = time.monotonic() + READY_WITHIN_S
        while len(details := self.health()["details"]) != count:
            assert time.monotonic() < end, "no other replica came"
            time.sleep(0.1)
        return {each["pid"] for each in details}


@contextmanager
def started(folder: Path, *settings: str, kind: type[Started] = Started, **environ: str) -> Iterator[Started]:
    server = kind(folder, *settings, **environ)
    try:
        yield server
    finally:
        print(server.log.read_text())
        if server.process.poll() is None:
            server.process.terminate()
        server.process.wait(STOP_WITHIN_S)


def test_a_replica_that_cannot_start_ends_the_server_with_its_reason(tmp_path: Path) -> None:
    absent = tmp_path / "absent" / "jax"
    absent.mkdir(parents=True)
    (absent / "__init__.py").write_text("raise ModuleNotFoundError(\"No module named 'jax'\", name='jax')\n")
    with started(tmp_path, PYTHONPATH=str(absent.parent)) as server:
        assert server.process.wait(READY_WITHIN_S) == 2
        assert "error: backend 'flax' needs 'jax': pip install" in server.log.read_text()
        assert "Traceback" not in server.log.read_text()


def test_a_start_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    with started(tmp_path, "start_timeout_s=0.01") as server:
        assert server.process.wait(READY_WITHIN_S) == 1
        assert "--set start_timeout_s=<seconds>" in server.log.read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_ready_ends_the_start(tmp_path: Path, number: signal.Signals) -> None:
    with started(tmp_path) as server:
        server.wait_for_line("starting:")
        os.killpg(server.process.pid, signal.SIGINT) if number is signal.SIGINT else server.process.send_signal(number)
        assert server.process.wait(STOP_WITHIN_S) == 0
        assert "stopped before the server was ready" in server.log.read_text()


def test_a_killed_replica_is_replaced_and_meanwhile_requests_are_refused_at_once(tmp_path: Path) -> None:
    with started(tmp_path) as server, httpx.Client(base_url=server.url, trust_env=False, timeout=60.0) as client:
        server.wait_for_line("ready:")
        assert client.post("/predict", content=body()).status_code == 200
        os.kill(server.replica(), signal.SIGKILL)
        refusals = 0
        while True:
            try:
                answer = client.post("/predict", content=body())
            except httpx.RemoteProtocolError:  # it was on its way to the replica
                continue
            if answer.status_code == 200 and refusals:
                break
            if answer.status_code == 503:
                refusals += 1
                assert (answer.json()["code"], answer.headers["retry-after"]) == ("unavailable", "1")
                assert answer.elapsed.total_seconds() < 5.0  # no timeout was waited for
            time.sleep(0.05)


POISON = b"kills whoever opens it"
KILLER = f"""
import os, signal
from PIL import Image

open_image = Image.open

def opened(file, *arguments, **options):
    if {POISON!r} in file.getvalue():
        os.kill(os.getpid(), signal.SIGKILL)
    return open_image(file, *arguments, **options)

Image.open = opened
"""
"""Read by every Python process of the server as it starts: a decoder with a fault, as decoders have had."""


def test_a_request_that_kills_replicas_costs_one_and_by_our_client_at_most_two(tmp_path: Path) -> None:
    fault = tmp_path / "fault"
    fault.mkdir()
    (fault / "sitecustomize.py").write_text(KILLER)
    path = os.pathsep.join([str(fault), *filter(None, [os.environ.get("PYTHONPATH")])])
    with started(tmp_path, "replicas=3", PYTHONPATH=path) as server, Client(server.url) as client:
        server.wait_for_line("ready:")
        before = server.until_there_are(3)
        with httpx.Client(base_url=server.url, trust_env=False, timeout=60.0) as raw:
            assert raw.post("/predict", content=body()).status_code == 200
            with suppress(httpx.RemoteProtocolError):  # HAProxy's way on a connection that was used before
                answer = raw.post("/predict", content=body(POISON))
                assert (answer.status_code, answer.json()["code"]) == (503, "replica_lost")
        answer = httpx.post(f"{server.url}/predict", content=body(), trust_env=False, timeout=60.0)
        assert answer.status_code == 200
        after = server.until_there_are(3)
        assert len(before - after) == 1
        with pytest.raises(RequestError, match=r"replica_lost|connection ended") as caught:
            client.predict(POISON)
        assert caught.value.tries == 2
        later = server.until_there_are(3)
        assert 1 <= len(after - later) <= 2
        assert client.predict(png()).label
        with Client(server.url, repeat_lost=False) as careful, pytest.raises(RequestError) as caught:
            careful.predict(POISON)
        assert caught.value.tries == 1
        assert len(later - server.until_there_are(3)) == 1


def test_what_a_replica_had_when_it_was_killed_goes_to_no_other(tmp_path: Path) -> None:
    with started(tmp_path, "replicas=2", "limits.deadline_s=60") as server:
        server.wait_for_line("ready:")
        before = server.until_there_are(2)
        port = int(server.url.rpartition(":")[2])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60.0)
        connection.putrequest("POST", "/predict")
        connection.putheader("Content-Length", str(len(body())))
        connection.endheaders(body()[:-1])
        busy: list[int] = []
        while not busy:
            busy = [each["pid"] for each in server.health()["details"] if each["in_flight"]]
        os.kill(busy[0], signal.SIGSTOP)
        connection.send(body()[-1:])  # now it has all of it
        os.kill(busy[0], signal.SIGKILL)
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["code"]) == (503, "replica_lost")
        assert before - server.until_there_are(2) == {busy[0]}
        assert answered(server, before - {busy[0]}) == 0


def answered(server: Started, pids: set[int]) -> float:
    """Predictions that these replicas answered."""
    names = {each["replica"] for each in server.health()["details"] if each["pid"] in pids}
    text = httpx.get(f"{server.metrics_url}/metrics", trust_env=False, timeout=60.0).text
    found = re.findall(r'^dlhpc_requests_total{replica="(\w+)",route="/predict",status="\d+"} (\S+)$', text, re.M)
    return sum(float(count) for replica, count in found if replica in names)


def test_a_drain_that_takes_too_long_is_cut_off_and_says_what_is_lost(tmp_path: Path) -> None:
    with started(tmp_path, "drain_timeout_s=1", "limits.deadline_s=60") as server:
        server.wait_for_line("ready:")
        port = int(server.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=60.0) as connection:
            connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
            while not server.health()["in_flight"]:
                time.sleep(0.02)
            server.process.terminate()
            assert server.process.wait(STOP_WITHIN_S) == 1
        assert "1 predictions were still in flight after 1 s (drain_timeout_s) and are lost" in server.log.read_text()


def test_after_a_kill_9_of_the_supervisor_the_port_is_free_again(tmp_path: Path) -> None:
    folder = Path("/tmp") / f"dlhpc-test-{os.getpid()}"  # nobody is left to remove a temporary one
    with started(tmp_path, f"ray_dir={folder}") as server:
        server.wait_for_line("ready:")
        server.process.kill()
        server.process.wait(STOP_WITHIN_S)
        end = time.monotonic() + 60.0
        while True:
            try:
                httpx.get(f"{server.url}/livez", trust_env=False, timeout=5.0)
            except httpx.ConnectError:
                break
            except httpx.HTTPError:
                pass
            assert time.monotonic() < end, "something still answers"
            time.sleep(0.1)
    shutil.rmtree(folder, ignore_errors=True)
