"""How often clients may ask a server."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from dlhpc.spec.base import PositiveFloat, PositiveInt, Spec


def _redis_url(text: str) -> str:
    """A URL that a Redis client takes."""
    if not text.startswith(("redis://", "rediss://", "unix://")):
        raise ValueError("expected redis://host:port/number, rediss://... or unix:///path")
    return text


RedisUrl = Annotated[str, AfterValidator(_redis_url)]


class RateSpec(Spec):
    """A token bucket: so many requests at once, and after that so many a second."""

    per_second: PositiveFloat
    """Requests a second in the long run."""

    burst: PositiveInt = 20
    """Requests at once, after a pause that was long enough."""

    @property
    def window_s(self) -> float:
        """Seconds in which an empty bucket becomes full."""
        return self.burst / self.per_second


class RateLimitsSpec(Spec):
    """How often clients may ask, over all replicas; 429 with Retry-After above."""

    per_client: RateSpec | None = None
    """For each client, by its API key or else by its address; none when null. A key may have a limit of its own."""

    total: RateSpec | None = None
    """For all clients together; none when null."""

    redis: RedisUrl | None = None
    """Redis in which all replicas, also those of other servers, count together: redis://host:6379/0, rediss:// for TLS,
    unix:///path. Without it each replica grants its share. A password belongs into
    DLHPC_SERVING__RATE_LIMITS__REDIS."""

    redis_timeout_ms: Annotated[float, Field(ge=1.0, le=10_000.0)] = 50.0
    """Longest that a request waits for Redis."""

    when_redis_is_away: Literal["local", "refuse"] = "local"
    """What happens when it does not answer: each replica grants its share, or requests get 503 with Retry-After."""
