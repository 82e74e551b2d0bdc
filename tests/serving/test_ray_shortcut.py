"""Requests go straight from Ray's HTTP server to our application; what Ray itself needs goes to Ray."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from dlhpc.errors import ServingError
from dlhpc.serving.ray_shortcut import shorten

internals = pytest.importorskip("ray.serve._private.replica")


class Metrics:
    """What Ray's replica counts."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, Any]] = []

    def inc_num_ongoing_requests(self, asked: Any) -> None:
        self.seen.append((1, asked))

    def dec_num_ongoing_requests(self, asked: Any) -> None:
        self.seen.append((-1, asked))


class RaysReplica:
    """As much of Ray's replica as its HTTP server sees."""

    def __init__(self) -> None:
        self._metrics_manager = Metrics()

    async def asgi(self, scope: Any, receive: Any, send: Any) -> None:
        await respond(send, b"Ray's")


async def respond(send: Any, content: bytes) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": content})


async def ours(scope: Any, receive: Any, send: Any) -> None:
    if scope["path"] == "/fail":
        raise ValueError("a fault")
    await respond(send, b"ours")


@pytest.fixture
def _own_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(internals, "start_asgi_http_server", internals.start_asgi_http_server)


async def answers(replica: RaysReplica, *asked: tuple[str, dict[str, str]]) -> list[httpx.Response]:
    """What the HTTP server that Ray starts answers to GET of these paths with these headers."""
    options = internals.HTTPOptions(host="127.0.0.1", port=0)
    loop = asyncio.get_running_loop()
    task, server = await internals.start_asgi_http_server(replica.asgi, options, event_loop=loop)
    while not server.started:
        await asyncio.sleep(0)
    port = server.servers[0].sockets[0].getsockname()[1]
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        found = [await client.get(path, headers=headers) for path, headers in asked]
    server.should_exit = True
    await task
    return found


@pytest.mark.usefixtures("_own_server")
def test_predictions_go_straight_to_us_and_health_to_ray() -> None:
    shorten(internals, ours)
    replica = RaysReplica()
    upgrade = {"connection": "upgrade", "upgrade": "websocket", "sec-websocket-key": "a" * 22 + "=="}
    asked = [("/predict", {}), ("/-/healthz", {}), ("/-", {}), ("/fail", {}), ("/predict", upgrade)]
    found = asyncio.run(answers(replica, *asked))
    assert [answer.text for answer in found] == ["ours", "Ray's", "ours", "Internal Server Error", "ours"]
    assert [by for by, _ in replica._metrics_manager.seen] == [1, -1] * 4
    metadata = replica._metrics_manager.seen[0][1]
    assert (metadata.is_direct_ingress, metadata.protocol) == (True, internals.RequestProtocol.HTTP)
    assert "x-request-id" not in found[0].headers  # ours is not doubled by Ray's


@pytest.mark.usefixtures("_own_server")
def test_without_it_ray_answers() -> None:
    assert [answer.text for answer in asyncio.run(answers(RaysReplica(), ("/predict", {})))] == ["Ray's"]


def test_rays_replica_counts_what_we_tell_it() -> None:
    for name in ("inc_num_ongoing_requests", "dec_num_ongoing_requests"):
        assert callable(getattr(internals.ReplicaMetricsManager, name))


def test_another_ray_is_refused() -> None:
    with pytest.raises(ServingError, match="other has no start_asgi_http_server"):
        shorten(SimpleNamespace(__name__="other"), ours)
