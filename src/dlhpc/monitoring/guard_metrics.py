"""What the guards of a replica count."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

BREAKER_STATES = ("closed", "half_open", "open")
"""In the order of their numbers in dlhpc_breaker_state."""


class GuardMetrics:
    """Counts of refusals, hits and changes of state, in the registry of a replica."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._denied = Counter(
            "dlhpc_auth_denied", "Requests without the API key that they need.", ["reason"], registry=registry
        )
        self._shed = Counter(
            "dlhpc_shed", "Requests refused because there is too much to do.", ["reason"], registry=registry
        )
        self._rate_limited = Counter(
            "dlhpc_rate_limited", "Requests that a rate limit refused.", ["limit"], registry=registry
        )
        self._cache_requests = Counter(
            "dlhpc_cache_requests", "Requests that asked the cache, by what came of it.", ["result"], registry=registry
        )
        self._cache_bytes = Gauge("dlhpc_cache_bytes", "Memory that cached replies take.", registry=registry)
        self._cache_replies = Gauge("dlhpc_cache_replies", "Cached replies.", registry=registry)
        self._cache_evictions = Counter(
            "dlhpc_cache_evictions", "Replies that made room for others.", registry=registry
        )
        self._breaker_state = Gauge(
            "dlhpc_breaker_state", "0 closed, 1 half open, 2 open.", ["digest"], registry=registry
        )
        self._breaker_changes = Counter(
            "dlhpc_breaker_changes", "Changes of the breaker's state.", ["digest", "to"], registry=registry
        )

    def denied(self, reason: str) -> None:
        """Count a request refused for its key, which was `missing`, `wrong`, `expired` or lacked a `scope`."""
        self._denied.labels(reason).inc()

    def shed(self, reason: str) -> None:
        """Count a request refused since the replica was `full` of requests or of their `bytes`, for its `low_priority`,
        or as `hopeless`."""
        self._shed.labels(reason).inc()

    def rate_limited(self, limit: str) -> None:
        """Count a request refused by a limit: `client` or `total`."""
        self._rate_limited.labels(limit).inc()

    def cache_asked(self, result: str) -> None:
        """Count a request by what the cache had for it: `hit`, `miss`, `joined` or `bypassed`."""
        self._cache_requests.labels(result).inc()

    def cache_evicted(self) -> None:
        """Count a reply that made room."""
        self._cache_evictions.inc()

    def cache_holds(self, replies: int, size: float) -> None:
        """Say how many replies the cache has, in how many bytes."""
        self._cache_replies.set(replies)
        self._cache_bytes.set(size)

    def breaker_is(self, digest: str, state: str) -> None:
        """Say in which state a version's breaker is, to begin with."""
        self._breaker_state.labels(digest).set(BREAKER_STATES.index(state))

    def breaker_is_gone(self, digest: str) -> None:
        """Say no more of a version's breaker; how often it changed stays."""
        self._breaker_state.remove(digest)

    def breaker_became(self, digest: str, state: str) -> None:
        """Count a change of a version's breaker."""
        self.breaker_is(digest, state)
        self._breaker_changes.labels(digest, state).inc()
