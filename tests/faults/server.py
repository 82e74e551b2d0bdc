"""A real server for the fault table, and the proof that a fault has harmed nobody else."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from dlhpc.api import Registry
from dlhpc.registry.artifact import Artifact, new_artifact
from dlhpc.serving.api_keys import add_key, new_key
from dlhpc.spec.data import DigitsSpec
from dlhpc.spec.model import MLPSpec
from dlhpc.spec.run import RunSpec
from dlhpc.weights.init import initial_weights
from dlhpc.weights.table import param_table
from tests.faults.raw import connected, one_reply, request
from tests.serving.asgi import body, png
from tests.serving.process_tree import tree

READY_WITHIN_S = 240.0
STOP_WITHIN_S = 120.0
GOOD = body(png(100))
"""A prediction that every model here answers."""


def publish(
    root: Path, name: str = "digits", *, hidden: tuple[int, ...] = (32,), is_poisoned: bool = False
) -> Artifact:
    """Publish an untrained model of digits.

    A poisoned one has no answer, NaN, for a chessboard: its weights are finite, and overflow there.
    """
    model = MLPSpec(num_classes=10, input_shape=(8, 8, 1), hidden_sizes=hidden)
    run = RunSpec(name=name, backend="torch", model=model, data=DigitsSpec())
    registry = Registry(root)
    weights = dict(initial_weights(param_table(model), seed=3))
    if is_poisoned:
        _poison(weights)
    artifact = new_artifact(
        run, weights, classes=[f"digit-{number}" for number in range(10)], metrics={}, data_fingerprint="none",
        load_backend=registry.load_backend,
    )  # fmt: skip
    registry.publish(artifact, name)
    return artifact


def _poison(weights: dict[str, np.ndarray]) -> None:
    """Give the first hidden unit what a chessboard has of its own, less what noise has, so often that it overflows."""
    first, second = (name for name, values in weights.items() if values.ndim == 2)
    bias = next(name for name, values in weights.items() if values.shape == (32,))
    enter, leave, shift = (weights[name].copy() for name in (first, second, bias))
    enter[:, 0] = np.float32(2.0**120) * np.where(CHESSBOARD.ravel(), 1, -1)
    shift[0] = -12 * 2.0**120
    leave[0, :] = 2.0**10
    weights.update({first: enter, second: leave, bias: shift})


CHESSBOARD = np.indices((8, 8)).sum(axis=0) % 2 == 0


def poison() -> bytes:
    """A request on which the poisoned model fails."""
    return b'{"pixels": %s}' % json.dumps(np.where(CHESSBOARD, 255, 0).tolist()).encode()


class Running:
    """A server in processes of its own."""

    def __init__(self, folder: Path, *settings: str) -> None:
        key, kept = new_key("grafana", ["metrics"], datetime.now(UTC))
        add_key(folder / "keys.json", kept)
        probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        self.port, self.metrics_port = (probe.getsockname()[1] for probe in probes)
        for probe in probes:
            probe.close()
        self.folder, self.log = folder, folder / "log"
        own = [
            f"port={self.port}",
            f"metrics_port={self.metrics_port}",
            "auth.keys=keys.json",
            "auth.open_predict=true",
        ]
        options = [word for setting in (*own, *settings) for word in ("--set", setting)]
        with self.log.open("w") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dlhpc.cli.main", "serve", *options],
                cwd=folder, stderr=stderr, start_new_session=True,
            )  # fmt: skip
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", trust_env=False, timeout=60.0)
        self.metrics = httpx.Client(
            base_url=f"http://127.0.0.1:{self.metrics_port}",
            headers={"authorization": f"Bearer {key}"},
            trust_env=False,
            timeout=60.0,
        )

    def wait(self) -> None:
        """Return when it is ready."""
        end = time.monotonic() + READY_WITHIN_S
        while "\nready:" not in f"\n{self.log.read_text()}":
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        """End it, whatever it does."""
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_WITHIN_S)
        self.process.kill()
        print(self.log.read_text())

    def replicas(self) -> set[int]:
        """The processes of its replicas."""
        found = set()
        for pid in tree(self.process.pid):
            with suppress(OSError):
                if b"ray::ServeReplica" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.add(pid)
        return found

    def replica(self) -> int:
        """The process of its only replica."""
        (pid,) = self.replicas()
        return pid

    def predict(self, content: bytes = GOOD, path: str = "/predict", **headers: str) -> httpx.Response:
        """Ask for a prediction."""
        return self.http.post(path, content=content, headers={"content-type": "application/json", **headers})

    def counts(self) -> Mapping[tuple[str, str], float]:
        """Answers so far by route and status."""
        text = self.metrics.get("/metrics").text
        found = re.findall(r'^dlhpc_requests_total{.*?route="(.*?)",status="(\d+)"} (\S+)$', text, re.MULTILINE)
        return {(route, status): float(count) for route, status, count in found if not route.endswith("z")}

    def until_idle(self) -> None:
        """Return when nothing is in flight."""
        end = time.monotonic() + 60.0
        while (told := self.health())["in_flight"]:
            assert time.monotonic() < end, told
            time.sleep(0.02)

    def until_counted(self, route: str, status: int, count: int) -> None:
        """Return when there were so many answers of a status."""
        end = time.monotonic() + 60.0
        while self.counts().get((route, str(status)), 0) < count:
            assert time.monotonic() < end, self.counts()
            time.sleep(0.02)

    def health(self) -> dict[str, Any]:
        """What the supervisor tells."""
        told: dict[str, Any] = self.metrics.get("/health").json()
        return told

    def breakers(self) -> dict[str, str]:
        """State of each version's breaker in the only replica."""
        (replica,) = self.health()["details"]
        return {lane["model"]: lane["breaker"] for lane in replica["lanes"]}

    @contextmanager
    def unharmed(self, counted: Mapping[tuple[str, int], int] | None) -> Iterator[None]:
        """What happens inside harms nobody else.

        A prediction that is in flight all the while is answered, so is one that comes after; nothing stays in flight,
        the replica is the same process, and its metrics count what is `counted`, (route, status) -> answers, and these
        two predictions, and nothing else; None is any number.
        """
        pid, before = self.replica(), self.counts()
        with connected(self.port) as beside:
            sent = request(GOOD)
            beside.sendall(sent[:-1])
            yield
            beside.sendall(sent[-1:])
            assert one_reply(beside).status == 200
        assert self.predict().status_code == 200
        self.until_idle()
        assert self.replica() == pid
        if counted is None:
            return
        now = self.counts()
        expected = {(route, str(status)): count for (route, status), count in counted.items()}
        expected["/predict", "200"] = expected.get(("/predict", "200"), 0) + 2
        assert {key: now[key] - before.get(key, 0) for key in now if now[key] != before.get(key, 0)} == expected


@contextmanager
def running(folder: Path, *settings: str) -> Iterator[Running]:
    """A server that is ready, until the block ends."""
    server = Running(folder, *settings)
    try:
        server.wait()
        yield server
    finally:
        server.stop()


def is_alive(pid: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
