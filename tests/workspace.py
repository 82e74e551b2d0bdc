"""A copy of the checkout in which commands run as a reader of the documents would type them.

The copy uses the environment that runs the tests. Each command runs once, however many tests ask for it; training is
shortened by the environment, so the commands stay as they are written.
"""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

NOT_SOURCE = {"runs", "registry", "demo", "build", "dist", "htmlcov", "venv"}
READY_WITHIN_S = 120.0
STOP_WITHIN_S = 90.0


class Workspace:
    """Runs commands in a copy of the checkout."""

    def __init__(self, checkout: Path, folder: Path, *, epochs: int) -> None:
        self.root = folder
        shutil.copytree(checkout, folder, ignore=_left_out(checkout))
        programs = Path(sys.executable).parent
        self.environ = {
            **os.environ,
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "DLHPC_TRAINING__NUM_EPOCHS": str(epochs),
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        self._done: dict[str, subprocess.CompletedProcess[str]] = {}

    def run(self, command: str, *, timeout_s: float = 280.0) -> subprocess.CompletedProcess[str]:
        """What the command gave when it was run (by bash, in the copy's root) for the first time."""
        if command not in self._done:
            started = time.monotonic()
            self._done[command] = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", command],
                cwd=self.root,
                env=self.environ,
                capture_output=True,
                text=True,
                timeout=timeout_s,
                check=False,
            )
            print(f"{time.monotonic() - started:6.1f} s  $ {command}")
        return self._done[command]

    def succeed(self, command: str, *, timeout_s: float = 280.0) -> str:
        """Standard output of a command that must end with 0."""
        done = self.run(command, timeout_s=timeout_s)
        assert done.returncode == 0, f"$ {command}\n{done.stdout}{done.stderr}\nexit status {done.returncode}"
        return done.stdout

    @contextmanager
    def server(self, command: str, *, port: int = 8000) -> Iterator[subprocess.Popen[str]]:
        """Run a server until the block ends; it must become ready, and end with 0 when it is asked to."""
        with (self.root / "server.log").open("w+") as log:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {command}"], cwd=self.root, env=self.environ, stdout=log, stderr=log, text=True
            )
            try:
                _wait_until_ready(process, port)
                yield process
                process.send_signal(signal.SIGTERM)
                assert process.wait(STOP_WITHIN_S) == 0
            except BaseException:
                log.seek(0)
                print(log.read())
                raise
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()


def _left_out(checkout: Path) -> Callable[[str, list[str]], set[str]]:
    """For copytree: what commands made, caches and everything hidden."""

    def left_out(folder: str, names: list[str]) -> set[str]:
        made = NOT_SOURCE if Path(folder) == checkout else set()
        return {
            name for name in names if name in made or name.startswith(".") or name.endswith((".egg-info", "cache__"))
        }

    return left_out


def _wait_until_ready(process: subprocess.Popen[str], port: int) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    pause = threading.Event()
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the server ended with {process.returncode}"
        with suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                return
        pause.wait(0.2)
    raise AssertionError(f"not ready after {READY_WITHIN_S:.0f} s")


@pytest.fixture(scope="session")
def workspace(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The copy that the tests of documents and of the seed's commands share."""
    return Workspace(checkout, tmp_path_factory.mktemp("workspace") / "deep-learning-hpc-demo", epochs=8)
