"""Health is ready only when predictions are answered."""

from __future__ import annotations

import asyncio

import pytest

from dlhpc import __version__
from dlhpc.serving.app import App
from dlhpc.serving.health import Phase, Snapshot, health, health_routes
from dlhpc.spec.serving import LimitsSpec, ServingSpec
from dlhpc.spec.wire import HealthReply, LaneHealth
from tests.serving.asgi import INFO, Answer, call

OTHER = INFO.model_copy(update={"name": "m:2", "digest": "sha256:" + "b" * 64})


LANE = LaneHealth(model="m:1", digest=INFO.digest, in_flight=3, queued=2, breaker="open")
SPEC = ServingSpec(limits=LimitsSpec(max_concurrent=4, deadline_s=None))


def snapshot(replica: str = "a", *, is_full: bool = False, is_draining: bool = False, in_flight: int = 0) -> Snapshot:
    return Snapshot(replica, (INFO,), 1, (), in_flight, is_full, is_draining, (), 7, (LANE,))


FREE, FULL, LEAVING = snapshot(), snapshot("b", is_full=True, in_flight=3), snapshot("c", is_draining=True, in_flight=1)


@pytest.mark.parametrize(
    ("phase", "snapshots", "status"),
    [
        ("starting", [], "starting"),
        ("starting", [FREE], "starting"),
        ("serving", [], "unavailable"),
        ("serving", [FREE], "ready"),
        ("serving", [FREE, FULL], "ready"),
        ("serving", [FULL], "overloaded"),
        ("serving", [LEAVING], "draining"),
        ("serving", [FREE, LEAVING], "ready"),
        ("draining", [FREE], "draining"),
        ("draining", [], "draining"),
    ],
)
def test_the_status_follows_from_phase_and_replicas(phase: Phase, snapshots: list[Snapshot], status: str) -> None:
    assert health(phase, snapshots, 1.0, SPEC).status == status


def test_replicas_requests_and_models_are_summed() -> None:
    other = Snapshot("d", (OTHER,), 1, (), 2, False, False, (), 8, ())
    told = health("serving", [FREE, FULL, LEAVING, other], 12.34567, SPEC)
    assert (told.replicas, told.in_flight, told.uptime_s) == (4, 6, 12.346)
    assert told.models == (INFO, OTHER)


@pytest.mark.parametrize(
    ("path", "status", "replica"),
    [
        ("/livez", 200, FREE),
        ("/livez", 200, FULL),
        ("/livez", 200, LEAVING),
        ("/readyz", 200, FREE),
        ("/readyz", 503, FULL),
        ("/readyz", 503, LEAVING),
        ("/health", 200, FREE),
        ("/health", 503, FULL),
        ("/health", 503, LEAVING),
    ],
)
def test_probes_have_the_status_that_kubernetes_reads(path: str, status: int, replica: Snapshot) -> None:
    assert _get(path, replica).status == status


def test_details_are_told_whether_ready_or_not() -> None:
    for replica, status in ((FREE, "ready"), (FULL, "overloaded")):
        told = HealthReply.model_validate_json(_get("/health", replica).content)
        assert (told.status, told.models, told.version) == (status, (INFO,), __version__)
        assert told.limits is not None
        assert (told.limits.max_concurrent, told.limits.deadline_s, told.limits.max_batch_size) == (4, None, 32)
        (detail,) = told.details
        assert (detail.replica, detail.pid, detail.is_full) == (replica.replica, 7, replica.is_full)
        assert detail.lanes == (LANE,)


def test_who_is_not_ready_says_why_and_when_to_ask_again() -> None:
    answer = _get("/readyz", FULL)
    assert answer.headers["retry-after"] == "1"
    assert answer.json["code"] == "unavailable"
    assert answer.json["detail"].startswith("overloaded: ")


def _get(path: str, replica: Snapshot) -> Answer:
    async def state() -> HealthReply:
        return health("serving", [replica], 1.0, SPEC)

    return asyncio.run(call(App(health_routes(state), lambda route, status, seconds: None), "GET", path))
