"""Prometheus metrics of serving: counted in each replica, collected and exposed by the supervisor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from dlhpc.monitoring.guard_metrics import GuardMetrics

TEXT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"
LATENCY_BUCKETS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Seconds: a small model answers in one millisecond, a deadline ends in ten seconds."""
SIZE_BUCKETS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class ReplicaMetrics:
    """What one replica counts. Names follow the Prometheus conventions: base units, `_total` for counters."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "dlhpc_requests",
            "Answered HTTP requests; status 499 is a client that left before its answer.",
            ["route", "status"],
            registry=self._registry,
        )
        self._latency = Histogram(
            "dlhpc_request_duration_seconds",
            "From a request's headers to the end of its answer, inside the replica.",
            ["route"],
            buckets=LATENCY_BUCKETS,
            registry=self._registry,
        )
        self._batch_size = Histogram(
            "dlhpc_batch_size", "Images per forward pass.", buckets=SIZE_BUCKETS, registry=self._registry
        )
        self._forward = Histogram(
            "dlhpc_forward_duration_seconds", "One forward pass.", buckets=LATENCY_BUCKETS, registry=self._registry
        )
        self.in_flight = Gauge("dlhpc_in_flight", "Predictions being worked on.", registry=self._registry)
        self.guards = GuardMetrics(self._registry)
        self._model = Gauge(
            "dlhpc_model_info",
            "1 for each served version.",
            ["model", "digest", "backend", "verification"],
            registry=self._registry,
        )
        self._shadows = Counter(
            "dlhpc_shadow",
            "Images that were given to a shadow too, by what came of it.",
            ["digest", "result"],
            registry=self._registry,
        )
        self.weights = Gauge("dlhpc_weights_bytes", "Bytes of the weights in memory.", registry=self._registry)
        self._evictions = Counter(
            "dlhpc_model_evictions", "Idle versions that made room for others.", ["digest"], registry=self._registry
        )
        self.plan = Gauge("dlhpc_plan", "Number of the plan that a replica follows.", registry=self._registry)
        ProcessCollector(namespace="dlhpc_replica", registry=self._registry)
        self._answers: dict[tuple[str, int], tuple[Counter, Histogram]] = {}

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count an answer; `route` is empty for paths that are not served."""
        pair = self._answers.get((route, status))
        if pair is None:  # looking labels up costs more than counting
            pair = self._requests.labels(route, str(status)), self._latency.labels(route)
            self._answers[route, status] = pair
        pair[0].inc()
        pair[1].observe(seconds)

    def computed(self, size: int, seconds: float) -> None:
        """Count a forward pass. May be called from any thread."""
        self._batch_size.observe(size)
        self._forward.observe(seconds)

    def evicted(self, digest: str) -> None:
        """Count a version that made room for another."""
        self._evictions.labels(digest).inc()

    def shadowed(self, digest: str, result: str) -> None:
        """Count a copy for a shadow: it `agreed`, `differed`, `failed`, or was `dropped` since too many waited."""
        self._shadows.labels(digest, result).inc()

    def serves(self, versions: Iterable[tuple[str, str, str, str]]) -> None:
        """Name the versions that are served: model, digest, backend, and how their bytes were looked at."""
        self._model.clear()
        for labels in versions:
            self._model.labels(*labels).set(1)

    def families(self) -> list[Metric]:
        """All metrics as they are now; plain values, fit to be sent to another process."""
        return families_of(self._registry)


def families_of(registry: CollectorRegistry) -> list[Metric]:
    """What a registry holds now; plain values."""
    families = list(registry.collect())
    for family in families:  # when a series began tells nobody anything, and doubles the text
        family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
    return families


def exposition(replicas: Sequence[tuple[str, list[Metric]]], *, is_ready: bool, own: Sequence[Metric] = ()) -> bytes:
    """Prometheus' text format of the supervisor's own process, `own` among it, and of every (replica id, families)."""
    registry = CollectorRegistry()
    Gauge("dlhpc_replicas", "Replicas that answer.", registry=registry).set(len(replicas))
    Gauge("dlhpc_ready", "1 when predictions are answered.", registry=registry).set(int(is_ready))
    ProcessCollector(namespace="dlhpc_supervisor", registry=registry)
    registry.register(_Fleet(replicas))
    registry.register(_Own(own))
    return generate_latest(registry)


class _Own(Collector):
    """Families as they are."""

    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


class _Fleet(Collector):
    """Families of several replicas, each sample labelled with its replica."""

    def __init__(self, replicas: Sequence[tuple[str, list[Metric]]]) -> None:
        self._replicas = replicas

    def collect(self) -> Iterable[Metric]:
        families: dict[str, Metric] = {}
        for replica, metrics in self._replicas:
            for metric in metrics:
                family = families.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
                family.samples.extend(
                    Sample(sample.name, {**sample.labels, "replica": replica}, sample.value, sample.timestamp)
                    for sample in metric.samples
                )
        return families.values()
