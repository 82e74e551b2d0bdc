"""A server that is asked for ten minutes, rightly and wrongly, keeps its memory and its file descriptors."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from dlhpc.bench.load import Job, Load
from dlhpc.bench.process_tree import descendants, descriptors, resident_bytes
from tests.serving.asgi import body
from tests.serving.test_server_faults import Started, started

SOAK_S = float(os.environ.pop("DLHPC_SOAK_S", "600"))  # it is no setting of the server
pytestmark = [
    pytest.mark.server,
    pytest.mark.slow,
    pytest.mark.timeout(SOAK_S + 600),
    pytest.mark.skipif(sys.platform != "linux", reason="HAProxy comes for Linux, and /proc is looked into"),
]

WARM_UP = 0.25
"""Share of the time in which memory may still be taken: for caches, windows, allocators."""
RATE = 150.0
SAMPLE_S = 2.0
MB = 1 << 20
REPLICAS = 2
SETTINGS = (
    f"replicas={REPLICAS}",
    "cache.max_bytes=1000000",
    "rate_limits.per_client.per_second=1000000",
    "rate_limits.per_client.burst=1000000",
    "rate_limits.total.per_second=1000000",
    "rate_limits.total.burst=1000000",
)


@contextmanager
def asked(port: int, seconds: float) -> Iterator[subprocess.Popen[str]]:
    """Requests at RATE, from a process of its own."""
    command = [sys.executable, "-m", "dlhpc.bench.load"]
    job = Job(port=port, clients=8, seconds=seconds, first=0, size=(8, 8), rate=RATE, repeated=True)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        print(json.dumps(asdict(job)), file=process.stdin, flush=True)
        yield process


def disturb(client: httpx.Client, port: int, number: int) -> None:
    """Ask what is refused, and leave without waiting."""
    faulty = [
        ("/predict", b"{"),
        ("/predict", b'{"image": "!"}'),
        ("/predict", body(b"no image")),
        (f"/{number}", b""),
        ("/predict", b'{"image": "' + b"A" * 400_000 + b'"}'),
    ]
    path, content = faulty[number % len(faulty)]
    with suppress(httpx.HTTPError):
        client.post(path, content=content)
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5.0) as left:
        left.sendall(b"POST /predict HTTP/1.1\r\nhost: me\r\ncontent-length: %d\r\n\r\n" % len(body()) + body())


def processes(server: Started) -> set[int]:
    """The supervisor and its replicas."""
    replicas = {
        pid
        for pid in descendants(server.process.pid)
        if b"ray::ServeReplica" in Path(f"/proc/{pid}/cmdline").read_bytes()
    }
    assert len(replicas) == REPLICAS
    return {server.process.pid, *replicas}


def test_ten_minutes_of_requests_take_no_memory_and_no_descriptors(tmp_path: Path, record_property: Any) -> None:
    with started(tmp_path, *SETTINGS) as server:
        server.wait_for_line("ready:")
        port = int(server.url.rpartition(":")[2])
        pids = processes(server)
        samples: list[tuple[float, float, int]] = []
        begin = time.monotonic()
        with asked(port, SOAK_S) as load, httpx.Client(base_url=server.url, trust_env=False, timeout=30.0) as client:
            number = 0
            while (now := time.monotonic() - begin) < SOAK_S:
                disturb(client, port, number)
                number += 1
                if now > len(samples) * SAMPLE_S:
                    samples.append((now, resident_bytes(pids) / MB, descriptors(pids)))
                time.sleep(0.05)
            assert load.stdout is not None
            *_, told = (json.loads(line) for line in (load.stdout.readline() for _ in range(3)))
            assert load.stdin is not None
            load.stdin.close()
        assert processes(server) == pids, "a replica was replaced"
        told = Load(**told)

    times, megabytes, counts = (np.array(each) for each in zip(*samples, strict=True))
    is_late = times > WARM_UP * SOAK_S
    slope = float(np.polyfit(times[is_late], megabytes[is_late], 1)[0]) * 60
    late = counts[is_late]
    record_property("memory slope, MB/min", round(slope, 3))
    record_property("descriptors", f"{late.min()} to {late.max()}")
    print(f"slope {slope:.3f} MB/min; descriptors {late.min()} to {late.max()}; {Counter(told.statuses)}")
    print([round(each) for each in megabytes[:: max(len(megabytes) // 40, 1)]])
    assert told.statuses["200"] >= 0.99 * RATE * SOAK_S
    assert set(told.statuses) <= {"200", "none"}
    assert slope < 1.0
    assert np.median(late[: len(late) // 3]) >= np.median(late[-len(late) // 3 :]) - 5
