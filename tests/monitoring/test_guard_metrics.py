"""What guards count is exposed under the names and labels that dashboards use."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest

from dlhpc.monitoring.guard_metrics import GuardMetrics


def test_every_count_has_its_name_and_labels() -> None:
    registry = CollectorRegistry()
    metrics = GuardMetrics(registry)
    metrics.denied("missing")
    metrics.shed("full")
    metrics.rate_limited("client")
    metrics.cache_asked("hit")
    metrics.cache_evicted()
    metrics.cache_holds(3, 4000)
    metrics.breaker_is("sha256:a", "closed")
    metrics.breaker_became("sha256:b", "open")
    lines = generate_latest(registry).decode().splitlines()
    assert {line for line in lines if not line.startswith("#") and "_created" not in line} == {
        'dlhpc_auth_denied_total{reason="missing"} 1.0',
        'dlhpc_shed_total{reason="full"} 1.0',
        'dlhpc_rate_limited_total{limit="client"} 1.0',
        'dlhpc_cache_requests_total{result="hit"} 1.0',
        "dlhpc_cache_evictions_total 1.0",
        "dlhpc_cache_replies 3.0",
        "dlhpc_cache_bytes 4000.0",
        'dlhpc_breaker_state{digest="sha256:a"} 0.0',
        'dlhpc_breaker_state{digest="sha256:b"} 2.0',
        'dlhpc_breaker_changes_total{digest="sha256:b",to="open"} 1.0',
    }
