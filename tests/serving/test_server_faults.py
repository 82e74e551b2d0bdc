"""Servers that fail, and servers that lose a replica: each starts one of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.serving.asgi import body
from tests.serving.process_tree import tree
from tests.serving.test_server import READY_WITHIN_S, STOP_WITHIN_S, artifact_of, free_ports

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(sys.platform != "linux", reason="HAProxy comes for Linux, and /proc is looked into"),
]


class Started:
    """A server that was started; it may never become ready."""

    def __init__(self, folder: Path, *settings: str, **environ: str) -> None:
        artifact_of(folder / "registry")
        port, metrics_port = free_ports(2)
        self.url, self.log = f"http://127.0.0.1:{port}", folder / "log"
        words = [f"port={port}", f"metrics_port={metrics_port}", "backend=flax", *settings]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dlhpc.cli.main", "serve", *(word for each in words for word in ("--set", each))],
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

    def replica(self) -> int:
        (pid,) = (
            pid for pid in tree(self.process.pid) if b"ray::ServeReplica" in Path(f"/proc/{pid}/cmdline").read_bytes()
        )
        return pid


@contextmanager
def started(folder: Path, *settings: str, **environ: str) -> Iterator[Started]:
    server = Started(folder, *settings, **environ)
    try:
        yield server
    finally:
        print(server.log.read_text())
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
