"""The fault table, replicas: hung, without memory, without their registry. Each has a server of its own."""

from __future__ import annotations

import os
import resource
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest

from tests.faults.images import grey, saved
from tests.faults.raw import asked, connected, one_reply, request
from tests.faults.server import GOOD, Running, publish, running
from tests.serving.asgi import body

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(900)]

LONGEST_S = 120.0
DEADLINE_S = 4


class Load:
    """Clients that ask again and again, and note what they are told."""

    def __init__(self, server: Running, clients: int) -> None:
        self.outcomes: Counter[tuple[int, str]] = Counter()
        self.slowest_s = 0.0
        self._is_over = threading.Event()
        self._server = server
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        with httpx.Client(trust_env=False, timeout=60.0) as client:
            while not self._is_over.is_set():
                began = time.monotonic()
                try:
                    answer = client.post(f"http://127.0.0.1:{self._server.port}/predict", content=GOOD)
                    told = answer.status_code, answer.json().get("code", "")
                except httpx.HTTPError as error:
                    told = 0, type(error).__name__
                self.outcomes[told] += 1
                self.slowest_s = max(self.slowest_s, time.monotonic() - began)

    def stop(self) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(60.0)


def until(server: Running, replicas: int, *, without: int) -> float:
    """Wait until so many replicas answer and one is gone; gives the seconds."""
    began = time.monotonic()
    while True:
        told = server.health()
        pids = {each["pid"] for each in told["details"]}
        if told["status"] == "ready" and len(pids) == replicas and without not in server.replicas():
            return time.monotonic() - began
        assert time.monotonic() < began + LONGEST_S, told
        time.sleep(0.1)


def test_a_hung_replica_is_passed_by_and_replaced(tmp_path: Path) -> None:
    publish(tmp_path / "registry")
    with running(tmp_path, "replicas=2", f"limits.deadline_s={DEADLINE_S}", "hang_timeout_s=9") as server:
        hung = min(server.replicas())
        load = Load(server, 4)
        os.kill(hung, signal.SIGSTOP)
        seconds = until(server, 2, without=hung)
        load.stop()
        print(f"replaced after {seconds:.1f} s; {load.outcomes}; the slowest answer took {load.slowest_s:.1f} s")
        assert load.outcomes.pop((200, "")) > 100
        assert set(load.outcomes) <= {(504, "deadline_exceeded"), (503, "replica_lost")}
        assert sum(load.outcomes.values()) <= 8  # what it had, and what came before HAProxy noticed


def test_while_the_only_replica_hangs_clients_are_refused_and_then_answered(tmp_path: Path) -> None:
    publish(tmp_path / "registry")
    with running(tmp_path, f"limits.deadline_s={DEADLINE_S}", "hang_timeout_s=9") as server:
        hung = server.replica()
        os.kill(hung, signal.SIGSTOP)
        codes = []
        while (answer := server.predict()).status_code != 200:
            codes.append(answer.json()["code"])
            time.sleep(0.1)
        assert set(codes) <= {"deadline_exceeded", "unavailable", "replica_lost"}
        assert "unavailable" in codes
        assert hung not in server.replicas()


def test_a_replica_without_memory_refuses_and_goes_on(tmp_path: Path) -> None:
    publish(tmp_path / "registry")
    large = request(body(saved(grey((5_000, 5_000)).convert("RGBA"), "PNG")))
    with running(tmp_path) as server:
        pid = server.replica()
        assert asked(server.port, large).status == 200
        size = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
        before = resource.prlimit(pid, resource.RLIMIT_AS, (size + (32 << 20), resource.RLIM_INFINITY))
        told = asked(server.port, large)
        assert (told.status, told.code, told.header("retry-after")) == (503, "overloaded", "1")
        assert server.predict().status_code == 200
        resource.prlimit(pid, resource.RLIMIT_AS, before)
        assert asked(server.port, large).status == 200
        assert server.replica() == pid
        server.until_idle()


def test_without_its_registry_a_server_goes_on_and_a_replica_comes_back_with_it(tmp_path: Path) -> None:
    publish(tmp_path / "registry")
    with running(tmp_path) as server:
        (tmp_path / "registry").rename(tmp_path / "away")
        with server.unharmed({}):
            assert server.health()["status"] == "ready"
        killed = server.replica()
        os.kill(killed, signal.SIGKILL)
        codes = set()
        for _ in range(30):
            try:
                codes.add(server.predict().json().get("code"))
            except httpx.RemoteProtocolError:  # it was on its way to the replica
                continue
            time.sleep(0.1)
        assert codes <= {"unavailable", "replica_lost"}
        (tmp_path / "away").rename(tmp_path / "registry")
        print(f"answered again after {until(server, 1, without=killed):.1f} s")
        assert server.predict().status_code == 200


def test_bodies_that_are_never_finished_and_nobody_reads_do_not_keep_connections(tmp_path: Path) -> None:
    publish(tmp_path / "registry")
    with running(tmp_path, "limits.deadline_s=1") as server, connected(server.port) as connection:
        connection.sendall(request(b"", "content-length: 999999", line="POST /nowhere HTTP/1.1"))
        assert one_reply(connection).status == 404
        while connection.recv(4096):  # until it is closed, for which it has a minute
            continue
