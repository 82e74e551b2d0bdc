"""Rate limits that several replicas, also of several servers, keep together: the token buckets are in Redis.

The same buckets as in one process (see rate_limit.py), each one number, by a script that Redis runs as one step, with
Redis's clock. When Redis is away, or does not answer in time, the limits of one replica take its place, or requests are
refused; nothing ever waits for it longer than the time it is given.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from dlhpc.errors import MissingExtraError
from dlhpc.serving.exchange import Headers, Refusal
from dlhpc.serving.guards.admission import RETRY_AFTER
from dlhpc.serving.guards.rate_limit import Limit, RateLimits, Told, item
from dlhpc.spec.rates import RateLimitsSpec, RateSpec

Script = Callable[[list[str], list[float]], Awaitable[Sequence[bytes]]]
"""Runs SCRIPT for keys and arguments."""
AWAY_S: Final = 1.0
"""Seconds for which Redis is not asked again after it did not answer."""
SCRIPT: Final = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local full_at, told, must_wait = {}, {}, false
for i, key in ipairs(KEYS) do
  local interval, depth = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  full_at[i] = math.max(tonumber(redis.call('GET', key) or '0'), now)
  local wait = full_at[i] - now + interval - depth
  if wait <= 1e-6 + 1e-9 * depth then wait = 0 else must_wait = true end
  told[2 * i - 1] = string.format('%.6f', wait)
end
for i, key in ipairs(KEYS) do
  if not must_wait then
    full_at[i] = full_at[i] + tonumber(ARGV[2 * i - 1])
    redis.call('SET', key, string.format('%.6f', full_at[i]), 'PX', math.ceil((full_at[i] - now) * 1000) + 1000)
  end
  told[2 * i] = string.format('%.6f', full_at[i] - now)
end
return told
"""
"""Keys: buckets. Arguments: seconds per token and seconds until an empty one is full, for each. Takes a token of every
bucket, or of none when one has none. Gives for each the wait for a token, and seconds until it is full."""
_log = logging.getLogger(__name__)


class RedisRates:
    """The limits of all who ask the same Redis."""

    def __init__(self, spec: RateLimitsSpec, local: RateLimits, script: Script) -> None:
        """`local` stands in while Redis is away."""
        self._spec = spec
        self._local = local
        self._script = script
        self._timeout_s = spec.redis_timeout_ms / 1000
        self._away_until = 0.0
        self._is_away = False

    async def admit(self, client: str, now: float, own: RateSpec | None = None) -> Told:
        """See Limiter."""
        limits = self._local.of(own)
        if not limits.each:
            return lambda later: ()
        if now >= self._away_until:
            waits = await self._take([(limit, limit.key(client)) for limit in limits.each], now)
            if waits is not None:
                return self._told(limits.each, limits.policy, waits, now)
        if self._spec.when_redis_is_away == "refuse":
            raise Refusal("unavailable", "rate limits cannot be looked up: try again in a second", headers=RETRY_AFTER)
        return await self._local.admit(client, now, own)

    async def _take(self, buckets: Sequence[tuple[Limit, str]], now: float) -> list[tuple[float, float]] | None:
        """For each bucket the wait, and seconds until it is full; None when Redis is away."""
        keys = [f"dlhpc:{{rates}}:{name}:{rate.per_second:g}:{rate.burst}:{key}" for (name, rate, _), key in buckets]
        numbers = [span for limit, _ in buckets for span in (1 / limit.rate.per_second, limit.rate.window_s)]
        try:
            async with asyncio.timeout(self._timeout_s):
                told = [float(text) for text in await self._script(keys, numbers)]
        except Exception as error:  # whatever it is, a request is not lost for it
            self._away_until = now + AWAY_S
            if not self._is_away:
                self._is_away = True
                _log.error("rate limits: Redis does not answer (%s): %s", type(error).__name__, error)
            return None
        if self._is_away:
            self._is_away = False
            _log.warning("rate limits: Redis answers again")
        return list(zip(told[::2], told[1::2], strict=True))

    def _told(self, limits: Sequence[Limit], policy: bytes, waits: list[tuple[float, float]], now: float) -> Told:
        def headers(later: float) -> Headers:
            items = []
            for limit, (_, full_in) in zip(limits, waits, strict=True):
                until_full = max(full_in - (later - now), 0.0)
                left = int((limit.rate.window_s - until_full) * limit.rate.per_second + 1e-4)
                items.append(item(limit.name, max(left, 0), until_full))
            return (b"ratelimit-policy", policy), (b"ratelimit", ", ".join(items).encode())

        wait, slowest = max(((wait, number) for number, (wait, _) in enumerate(waits)))
        if wait > 0:
            raise self._local.refusal(limits[slowest], wait, headers(now))
        return headers


def redis_script(spec: RateLimitsSpec) -> Script:
    """SCRIPT in the Redis that a spec names. Connects when it is first asked. Raises MissingExtraError."""
    assert spec.redis is not None
    try:
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
    except ModuleNotFoundError as error:
        raise MissingExtraError("rate_limits.redis", "redis", "redis") from error
    timeout_s = spec.redis_timeout_ms / 1000
    client: Any = Redis.from_url(
        spec.redis,
        protocol=2,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),  # the one who asks has no time for another
    )
    script = client.register_script(SCRIPT)

    async def run(keys: list[str], arguments: list[float]) -> Sequence[bytes]:
        told: Sequence[bytes] = await script(keys=keys, args=arguments)
        return told

    return run
