"""Servers to be compared: how each is started, asked and ended. All serve the same version of a registry."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Final

import httpx
import numpy as np

from dlhpc.bench.process_tree import descendants
from dlhpc.bench.requests import body, image
from dlhpc.errors import NotFoundError, ServingError
from dlhpc.ports import Predictor
from dlhpc.serving.api_keys import add_key, new_key

OURS: Final = "dlhpc"
BARE: Final = "FastAPI"
PEERS: Final = {BARE: "fastapi_server.py", "LitServe": "litserve_server.py", "Ray Serve": "ray_server.py"}
"""Servers of other makers, and the programs in benchmarks/peers that make them serve one of our models."""
IN_THEIR_ENVIRONMENT: Final = frozenset({"LitServe"})
"""What is in requirements-peers.txt; the others come with the extra `serve`."""
NAMES: Final = (OURS, *PEERS)
PEERS_FOLDER: Final = Path("benchmarks", "peers")
ENVIRONMENTS: Final = Path("tools", "environments.py")

READY_WITHIN_S: Final = 180.0
END_WITHIN_S: Final = 60.0
LIMIT: Final = 1_000_000
"""A rate that nobody reaches: the guard does its work and refuses nothing."""
ALL_GUARDS: Final = (
    "backend=trained",
    "limits.max_concurrent=1024",
    "limits.deadline_s=10",
    f"rate_limits.per_client.per_second={LIMIT}",
    f"rate_limits.per_client.burst={LIMIT}",
    f"rate_limits.total.per_second={LIMIT}",
    f"rate_limits.total.burst={LIMIT}",
    "cache.max_bytes=64000000",
    "breaker.enabled=true",
    "batching.refuse_hopeless=true",
)
"""Settings of our server, with a file of API keys: every guard is on, and none refuses anything. It computes in the
framework of the model, as the others do."""


@dataclass
class Running:
    """A server that was started."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    log: Path
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def pids(self) -> set[int]:
        """Its processes."""
        return descendants(self.process.pid)

    def wait(self, size: tuple[int, int], predict: Predictor) -> None:
        """Until it answers as the model does. Raises ServingError when it never will."""
        end = time.monotonic() + READY_WITHIN_S
        while self.process.poll() is None and time.monotonic() < end:
            with suppress(httpx.HTTPError):
                answer = self._ask(body(7, size))
                if answer.status_code == 200:
                    self._check(answer, size, predict)
                    return
            time.sleep(0.2)
        raise ServingError(f"{self.name} does not answer; the end of {self.log}: {self.log.read_text()[-1000:]}")

    def end(self) -> None:
        """Let it end, or end it."""
        pids = self.pids
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(END_WITHIN_S)
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def _ask(self, content: bytes) -> httpx.Response:
        url = f"http://127.0.0.1:{self.port}/predict"
        headers = {"content-type": "application/json", **self.headers}
        return httpx.post(url, content=content, headers=headers, trust_env=False, timeout=10.0)

    def _check(self, answer: httpx.Response, size: tuple[int, int], predict: Predictor) -> None:
        """All must do the same work."""
        (row,) = predict(image(7, size)[np.newaxis, ..., np.newaxis])
        given = list(answer.json()["probabilities"].values())
        if not np.allclose(given, row, atol=1e-4):
            raise ServingError(f"{self.name} gives {given}, and the model {row.tolist()}")


def start(name: str, registry: Path, ref: str, port: int, metrics_port: int, folder: Path) -> Running:
    """Start a server of these NAMES; it is ready later. Its log goes into `folder`."""
    log = folder / f"{name.replace(' ', '-')}.log"
    with log.open("wb") as out:
        if name == OURS:
            return _ours(registry, ref, port, metrics_port, folder, log, out)
        program = PEERS_FOLDER / PEERS[name]
        if not program.exists():
            raise NotFoundError(f"{program}: not here; run this in a checkout, or measure --contender {OURS} alone")
        python = python_of_peers() if name in IN_THEIR_ENVIRONMENT else sys.executable
        command = [python, str(program), str(registry), ref, str(port)]
        return Running(name, port, _process(command, out), log)


def _ours(registry: Path, ref: str, port: int, metrics_port: int, folder: Path, log: Path, out: IO[bytes]) -> Running:
    secret, kept = new_key("bench", ["predict"], datetime.now(UTC))
    keys = folder / f"keys-{port}.json"
    add_key(keys, kept)
    settings = [f"port={port}", f"metrics_port={metrics_port}", f"auth.keys={keys}", *ALL_GUARDS]
    words = [word for setting in settings for word in ("--set", setting)]
    command = [sys.executable, "-m", "dlhpc.cli.main", "serve", ref, "--registry", str(registry), *words]
    return Running(OURS, port, _process(command, out), log, {"authorization": f"Bearer {secret}"})


def _process(command: list[str], out: IO[bytes]) -> subprocess.Popen[bytes]:
    # What the programs of other makers print is not ours; standard input stays closed, so that nobody waits for it.
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}  # for the environment that has no dlhpc
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True, env=environ
    )


def python_of_peers() -> str:
    """The Python of the environment of the peers' packages, made first where it is missing."""
    found = subprocess.run(
        [sys.executable, str(ENVIRONMENTS), "peers"], stdout=subprocess.PIPE, text=True, check=True, timeout=600
    )
    return found.stdout.strip()


def versions_of(names: Sequence[str]) -> str:
    """The versions of what these servers are made of."""
    python = python_of_peers() if IN_THEIR_ENVIRONMENT & set(names) else sys.executable
    packages = ["uvicorn", "uvloop", "ray", *(["fastapi"] if BARE in names else [])]
    packages += ["litserve"] if "LitServe" in names else []
    code = "import importlib.metadata as m, sys; print(', '.join(f'{n} {m.version(n)}' for n in sys.argv[1:]))"
    command = [python, "-c", code, *packages]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=60).stdout.strip()


def free_port() -> int:
    """A port on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
