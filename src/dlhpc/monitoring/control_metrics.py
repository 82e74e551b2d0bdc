"""What the supervisor counts of the versions that it lets the replicas serve."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import Metric

from dlhpc.monitoring.metrics import families_of


class ControlMetrics:
    """Changes of what is served, and what stands in their way."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._changes = Counter(
            "dlhpc_model_changes", "Versions that took the place of others.", ["model"], registry=self._registry
        )
        self._refused = Counter(
            "dlhpc_model_changes_refused",
            "Versions that could not take the place of others.",
            ["model"],
            registry=self._registry,
        )
        self._faults = Gauge(
            "dlhpc_model_fault", "1 for a model that is not what its reference stands for.", ["model"],
            registry=self._registry,
        )  # fmt: skip

        self._rolled_back = Counter(
            "dlhpc_rollbacks", "Versions that were taken off trial.", ["model", "digest"], registry=self._registry
        )
        self._weights = Gauge(
            "dlhpc_canary_weight", "Share of requests that a canary answers.", ["model", "digest"],
            registry=self._registry,
        )  # fmt: skip

    def rolled_back(self, model: str, digest: str) -> None:
        """Count a version of a model that failed its trial."""
        self._rolled_back.labels(model, digest).inc()

    def weigh(self, canaries: Iterable[tuple[str, str, float]]) -> None:
        """Say which canaries there are: model, digest, weight."""
        self._weights.clear()
        for model, digest, weight in canaries:
            self._weights.labels(model, digest).set(weight)

    def changed(self, model: str) -> None:
        """Count a version of a model that took the place of another."""
        self._changes.labels(model).inc()

    def refused(self, model: str) -> None:
        """Count a version of a model that was not to be had."""
        self._refused.labels(model).inc()

    def faulty(self, models: Collection[str]) -> None:
        """Say which models are not as they should be; the others are."""
        self._faults.clear()
        for model in models:
            self._faults.labels(model).set(1)

    def families(self) -> list[Metric]:
        """All metrics as they are now."""
        return families_of(self._registry)
