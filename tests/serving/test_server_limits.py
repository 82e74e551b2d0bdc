"""Rate limits over three replicas of a real server: in total, and for who asks one of them."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from dlhpc.serving.guards.buckets import LOAN_S
from tests.serving.asgi import body
from tests.serving.process_tree import listening
from tests.serving.test_server_faults import Started, started

pytestmark = [
    pytest.mark.server,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(sys.platform != "linux", reason="HAProxy comes for Linux, and /proc is looked into"),
]
PER_SECOND, BURST = 20.0, 30
SPAN_S = 12.0
SETTINGS = ("replicas=3", f"rate_limits.per_client.per_second={PER_SECOND}", f"rate_limits.per_client.burst={BURST}")


def granted(urls: Sequence[str]) -> list[float]:
    """When predictions were granted to one client that asks twice as often as it may, for SPAN_S."""
    began = time.monotonic()

    def ask(url: str) -> list[float]:
        passed = []
        with httpx.Client(trust_env=False, timeout=60.0) as client:
            while (asked := time.monotonic()) < began + SPAN_S:
                status = client.post(f"{url}/predict", content=body()).status_code
                assert status in {200, 429}
                if status == 200:
                    passed.append(time.monotonic())
                time.sleep(max(len(urls) / (2 * PER_SECOND) - (time.monotonic() - asked), 0.0))
        return passed

    with ThreadPoolExecutor(len(urls)) as threads:
        return sorted(moment for moments in threads.map(ask, urls) for moment in moments)


def check(passed: list[float], slack_s: float = 0.5) -> None:
    """In no span more than the limit and its stated overshoot; an answer may take slack_s more than another."""
    for first, since in enumerate(passed):
        for last in range(first, len(passed)):
            most = BURST + PER_SECOND * (passed[last] - since + LOAN_S + slack_s)
            assert last - first + 1 <= most


def one_replica(server: Started) -> str:
    """Where one of the replicas listens, without HAProxy."""
    pid = min(server.until_there_are(3))
    (port,) = (port for _, port in listening({pid}) if 30_000 <= port <= 31_000)
    return f"http://127.0.0.1:{port}"


def test_three_replicas_keep_a_clients_limit_in_total_and_for_one_of_them(tmp_path: Path) -> None:
    with started(tmp_path, *SETTINGS) as server:
        server.wait_for_line("ready:")
        in_total = granted([server.url] * 6)
        check(in_total)
        assert len(in_total) >= 0.8 * (BURST + PER_SECOND * SPAN_S)
        time.sleep(BURST / PER_SECOND)
        of_one = granted([one_replica(server)] * 2)
        check(of_one)
        assert len(of_one) >= 0.7 * (BURST + PER_SECOND * SPAN_S), "alone it has a third"
