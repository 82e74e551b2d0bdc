"""Health: /livez, /readyz and /health, the same on a replica and on the supervisor."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from prometheus_client.core import Metric

from dlhpc import __version__
from dlhpc.serving.evidence import Counts
from dlhpc.serving.exchange import Handler, Refusal, Reply, Request
from dlhpc.serving.guards.admission import RETRY_AFTER
from dlhpc.spec.serving import ServingSpec
from dlhpc.spec.wire import HealthReply, LaneHealth, LimitsInfo, ModelInfo, ReplicaHealth

Phase = Literal["starting", "serving", "draining"]
State = Callable[[], Awaitable[HealthReply]]

_WHY = {
    "starting": "the model is still being loaded",
    "draining": "the server is stopping",
    "overloaded": "every replica has as many predictions in flight as it may",
    "unavailable": "no replica answers",
}


@dataclass(frozen=True)
class Snapshot:
    """What a replica tells the supervisor about itself."""

    replica: str
    models: tuple[ModelInfo, ...]
    """What it serves; that of the default model first."""
    epoch: int
    """Number of the plan that it follows."""
    counts: tuple[tuple[str, Counts], ...]
    """What each version has computed here, by its digest."""
    in_flight: int
    is_full: bool
    is_draining: bool
    families: Sequence[Metric]
    pid: int
    lanes: tuple[LaneHealth, ...]


def health(
    phase: Phase, snapshots: Sequence[Snapshot], uptime_s: float, spec: ServingSpec, faults: Sequence[str] = ()
) -> HealthReply:
    """The health of a server made of these replicas, which this spec describes; `faults` are told with it."""
    if phase == "serving" and not snapshots:
        status = "unavailable"
    elif phase == "draining" or (snapshots and all(each.is_draining for each in snapshots)):
        status = "draining"
    elif phase == "starting":
        status = "starting"
    else:
        status = "overloaded" if all(each.is_full for each in snapshots) else "ready"
    return HealthReply(
        status=status,
        replicas=len(snapshots),
        in_flight=sum(each.in_flight for each in snapshots),
        uptime_s=round(uptime_s, 3),
        models=tuple({(info.name, info.digest): info for each in snapshots for info in each.models}.values()),
        faults=tuple(faults),
        version=__version__,
        limits=_limits(spec),
        details=tuple(_details(each) for each in snapshots),
    )


def _limits(spec: ServingSpec) -> LimitsInfo:
    limits = spec.limits
    return LimitsInfo(
        max_concurrent=limits.max_concurrent,
        max_batch_size=spec.batching.max_batch_size,
        max_body_bytes=limits.max_body_bytes,
        max_image_pixels=limits.max_image_pixels,
        deadline_s=limits.deadline_s,
    )


def _details(snapshot: Snapshot) -> ReplicaHealth:
    return ReplicaHealth(
        replica=snapshot.replica,
        pid=snapshot.pid,
        in_flight=snapshot.in_flight,
        is_full=snapshot.is_full,
        is_draining=snapshot.is_draining,
        lanes=snapshot.lanes,
    )


def health_routes(state: State) -> Mapping[str, Mapping[str, Handler]]:
    """/livez: the process answers. /readyz: it would answer predictions too. /health: details, with the same status."""

    async def livez(request: Request) -> Reply:
        return Reply(200, b'{"status":"alive"}')

    async def readyz(request: Request) -> Reply:
        status = (await state()).status
        if status != "ready":
            raise Refusal("unavailable", f"{status}: {_WHY[status]}", headers=RETRY_AFTER)
        return Reply(200, b'{"status":"ready"}')

    async def details(request: Request) -> Reply:
        now = await state()
        return Reply(200 if now.status == "ready" else 503, now.model_dump_json().encode())

    return {"/livez": {"GET": livez}, "/readyz": {"GET": readyz}, "/health": {"GET": details}}
