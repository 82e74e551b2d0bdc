"""Metrics have the names, units and labels that dashboards ask for."""

from __future__ import annotations

import pickle

import pytest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from dlhpc.monitoring.metrics import ReplicaMetrics, exposition

Key = tuple[str, tuple[tuple[str, str], ...]]


def samples(*replicas: tuple[str, list[Metric]], is_ready: bool = True) -> dict[Key, float]:
    """The exposition read back, as Prometheus would."""
    text = exposition(list(replicas), is_ready=is_ready).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def key(name: str, **labels: str) -> Key:
    return name, tuple(sorted(labels.items()))


def test_answers_are_counted_by_route_and_status_and_timed_by_route() -> None:
    metrics = ReplicaMetrics()
    for status, seconds in ((200, 0.003), (200, 0.3), (422, 0.0001)):
        metrics.answered("/predict", status, seconds)
    metrics.answered("", 404, 0.0001)
    found = samples(("r", metrics.families()))
    assert found[key("dlhpc_requests_total", replica="r", route="/predict", status="200")] == 2
    assert found[key("dlhpc_requests_total", replica="r", route="/predict", status="422")] == 1
    assert found[key("dlhpc_requests_total", replica="r", route="", status="404")] == 1
    seconds = "dlhpc_request_duration_seconds"
    assert found[key(f"{seconds}_count", replica="r", route="/predict")] == 3
    assert found[key(f"{seconds}_sum", replica="r", route="/predict")] == pytest.approx(0.3031)
    assert found[key(f"{seconds}_bucket", replica="r", route="/predict", le="0.005")] == 2


def test_forward_passes_are_counted_by_size_and_time() -> None:
    metrics = ReplicaMetrics()
    metrics.computed(3, 0.002)
    metrics.computed(32, 0.004)
    found = samples(("r", metrics.families()))
    assert found[key("dlhpc_batch_size_sum", replica="r")] == 35
    assert found[key("dlhpc_batch_size_bucket", replica="r", le="4.0")] == 1
    assert found[key("dlhpc_forward_duration_seconds_count", replica="r")] == 2


def test_the_served_version_is_named() -> None:
    metrics = ReplicaMetrics()
    metrics.serves([("m:0", "sha256:ff", "torch", "cached")])
    metrics.serves([("m:1", "sha256:00", "torch", "cached")])
    metrics.in_flight.set(5)
    found = samples(("r", metrics.families()))
    labels = {"model": "m:1", "digest": "sha256:00", "backend": "torch", "verification": "cached"}
    assert found[key("dlhpc_model_info", replica="r", **labels)] == 1
    assert len([name for name, _ in found if name == "dlhpc_model_info"]) == 1
    assert found[key("dlhpc_in_flight", replica="r")] == 5


def test_families_travel_between_processes_and_name_their_replica() -> None:
    families = []
    for count in (1, 2):
        metrics = ReplicaMetrics()
        for _ in range(count):
            metrics.computed(1, 0.001)
        families.append(pickle.loads(pickle.dumps(metrics.families())))
    found = samples(("a", families[0]), ("b", families[1]))
    assert found[key("dlhpc_batch_size_count", replica="a")] == 1
    assert found[key("dlhpc_batch_size_count", replica="b")] == 2
    assert found[key("dlhpc_replicas")] == 2
    assert key("dlhpc_supervisor_process_cpu_seconds_total") in found
    assert key("dlhpc_replica_process_cpu_seconds_total", replica="a") in found


@pytest.mark.parametrize("is_ready", [True, False])
def test_readiness_is_a_metric(is_ready: bool) -> None:
    found = samples(is_ready=is_ready)
    assert (found[key("dlhpc_ready")], found[key("dlhpc_replicas")]) == (float(is_ready), 0)


def test_nothing_is_told_twice() -> None:
    metrics = ReplicaMetrics()
    metrics.answered("/predict", 200, 0.1)
    text = exposition([("a", metrics.families()), ("b", metrics.families())], is_ready=True).decode()
    types = [line for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(types) == len(set(types))
    assert "_created" not in text
