"""The supervisor's own port."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from dlhpc.errors import ConflictError
from dlhpc.serving.exporter import Exporter, exporter_app, listen
from dlhpc.serving.health import Snapshot, health
from dlhpc.spec.serving import ServingSpec
from dlhpc.spec.wire import HealthReply
from tests.serving.asgi import SLOT, body, call, replica_of


class Fleet:
    """Two replicas; the first has answered once."""

    def __init__(self) -> None:
        self.replicas = [replica_of(SLOT, ServingSpec(), name) for name in ("r1", "r2")]
        asyncio.run(call(self.replicas[0].app, parts=[body()]))
        self.asked_for_metrics: list[bool] = []

    async def look(self, with_metrics: bool) -> tuple[HealthReply, Sequence[Snapshot]]:
        self.asked_for_metrics.append(with_metrics)
        snapshots = [replica.snapshot(with_metrics=with_metrics) for replica in self.replicas]
        return health("serving", snapshots, 1.0, ServingSpec()), snapshots


def test_metrics_of_all_replicas_are_told_apart() -> None:
    fleet = Fleet()
    answer = asyncio.run(call(exporter_app(fleet.look), "GET", "/metrics"))
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    samples = {
        (sample.name, sample.labels.get("replica"), sample.labels.get("status")): sample.value
        for family in text_string_to_metric_families(answer.content.decode())
        for sample in family.samples
    }
    assert samples["dlhpc_requests_total", "r1", "200"] == 1.0
    assert ("dlhpc_requests_total", "r2", "200") not in samples
    assert samples["dlhpc_model_info", "r2", None] == 1.0
    assert (samples["dlhpc_replicas", None, None], samples["dlhpc_ready", None, None]) == (2.0, 1.0)
    assert fleet.asked_for_metrics == [True]


def test_health_asks_for_no_metrics() -> None:
    fleet = Fleet()
    app = exporter_app(fleet.look)
    assert asyncio.run(call(app, "GET", "/health")).json["replicas"] == 2
    assert asyncio.run(call(app, "GET", "/readyz")).status == 200
    assert asyncio.run(call(app, "GET", "/livez")).status == 200
    assert fleet.asked_for_metrics == [False, False]  # /livez asks nobody


def test_it_serves_on_its_socket_until_it_is_stopped() -> None:
    listener = listen("127.0.0.1", 0, "metrics_port")
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    exporter = Exporter(exporter_app(Fleet().look), listener)
    assert httpx.get(f"{url}/readyz", trust_env=False).json() == {"status": "ready"}
    exporter.stop()
    listener.close()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/livez", trust_env=False)


def test_a_port_that_is_taken_is_told_with_its_holder_and_the_setting_to_change() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConflictError, match=rf"127\.0\.0\.1:{port}.*process \d+ .*--set metrics_port=") as caught:
            listen("127.0.0.1", port, "metrics_port")
    assert caught.value.exit_code == 4


def test_an_address_of_another_machine_is_told_as_such() -> None:
    with pytest.raises(ConflictError, match="'host' must be an address of this machine"):
        listen("192.0.2.77", 0, "port")  # TEST-NET-1 (RFC 5737)


@pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")
def test_it_listens_on_ipv6_too() -> None:
    with listen("::1", 0, "port") as listener:
        assert listener.family == socket.AF_INET6
