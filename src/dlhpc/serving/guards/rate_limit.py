"""Rate limits: how often one client, and all of them together, may ask.

Token buckets, each kept as one number: the time at which it is full again (the generic cell rate algorithm of ATM
networks, ITU-T I.371). `limits` and its like count in windows, read the clock themselves and bring threads along.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Literal, NamedTuple

from dlhpc.serving.exchange import Guard, Handler, Headers, Refusal, Reply, Request
from dlhpc.serving.guards.client_address import client_of, networks
from dlhpc.spec.serving import RateLimitsSpec, RateSpec

MOST_KEYS: Final = 100_000
"""Clients remembered at a time, in about 20 MB. The one that asked least recently is forgotten first."""
Name = Literal["client", "total"]
Observe = Callable[[Name], None]
"""Told of every refusal, with the limit that made it."""


class Buckets:
    """Token buckets of one size, by key; the bucket of a key that was not seen lately is full."""

    def __init__(self, per_second: float, burst: float, most_keys: int = MOST_KEYS) -> None:
        """`per_second` tokens come into a bucket until there are `burst`, of which there must be room for one."""
        self._interval = 1 / per_second
        self._depth = max(burst, 1.0) * self._interval
        self._most_keys = most_keys
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._full_at)

    def wait(self, key: str, now: float) -> float:
        """Seconds until there is a token; 0 when there is one."""
        missing = max(self._full_at.get(key, now) - now, 0.0) + self._interval - self._depth
        return missing if missing > 1e-9 * self._depth else 0.0

    def take(self, key: str, now: float) -> None:
        """Take a token, which must be there."""
        self._full_at[key] = max(self._full_at.get(key, now), now) + self._interval
        self._full_at.move_to_end(key)
        self._forget(now)

    def left(self, key: str, now: float) -> tuple[int, float]:
        """Whole tokens that are there, and seconds until the bucket is as full as it can be."""
        until_full = max(self._full_at.get(key, now) - now, 0.0)
        return int((self._depth - until_full) / self._interval + 1e-6), until_full

    def _forget(self, now: float) -> None:
        """Let go of buckets that are full, a few at a time, and of the oldest when there are too many."""
        for _ in range(2):
            oldest = next(iter(self._full_at))
            if self._full_at[oldest] > now and len(self._full_at) <= self._most_keys:
                return
            del self._full_at[oldest]
            if not self._full_at:
                return


class RateLimits:
    """The limits of one replica, which are its share of the server's.

    What one replica may grant, another may not, so that all together keep the limit: within any `t` seconds at most
    `burst + per_second * t` requests pass, and at most `replicas - burst` more where there are more replicas than
    `burst`, since each must be able to let one pass. A replica that is started anew has full buckets.
    """

    def __init__(self, spec: RateLimitsSpec, replicas: int, observe: Observe) -> None:
        self._replicas = replicas
        self._observe = observe
        self._total = self._limit("total", spec.total)
        self._usual = self._joined(spec.per_client)
        self._of_own: dict[tuple[float, int], _Limits] = {}

    def enter(self, client: str, now: float, own: RateSpec | None = None) -> None:
        """Count a request of a client, or raise the Refusal that tells it when to come again.

        `own` is the client's own limit, in place of the one for each client.
        """
        limits = self._limits(own)
        wait, slowest = 0.0, None
        for limit in limits.each:
            its = limit.buckets.wait(limit.key(client), now)
            if its > wait:
                wait, slowest = its, limit
        if slowest is not None:
            name, rate, _ = slowest
            self._observe(name)
            whose = "this client's requests are" if name == "client" else "the requests of all clients together are"
            raise Refusal(
                "rate_limited",
                f"{whose} limited to {rate.per_second:g} a second, {rate.burst} at once: wait {wait:.3g} s",
                headers=(*self.headers(client, now, own), (b"retry-after", b"%d" % _seconds(wait))),
            )
        for limit in limits.each:
            limit.buckets.take(limit.key(client), now)

    def headers(self, client: str, now: float, own: RateSpec | None = None) -> Headers:
        """What a client is told with every answer (draft-ietf-httpapi-ratelimit-headers-10): the policies, then what
        this replica has left of each and the seconds until it has all of it again."""
        limits = self._limits(own)
        if not limits.each:
            return ()
        left = ", ".join(limit.told(client, now) for limit in limits.each)
        return (b"ratelimit-policy", limits.policy), (b"ratelimit", left.encode())

    def _limits(self, own: RateSpec | None) -> _Limits:
        """The limits of a client; those with equal limits of their own share the table of buckets."""
        if own is None:
            return self._usual
        key = own.per_second, own.burst
        found = self._of_own.get(key)
        if found is None:
            found = self._of_own[key] = self._joined(own)
        return found

    def _joined(self, per_client: RateSpec | None) -> _Limits:
        each = [limit for limit in (self._limit("client", per_client), self._total) if limit is not None]
        policies = (f'"{name}";q={rate.burst};w={_seconds(rate.window_s)}' for name, rate, _ in each)
        return _Limits(each, ", ".join(policies).encode())

    def _limit(self, name: Name, rate: RateSpec | None) -> _Limit | None:
        if rate is None:
            return None
        return _Limit(name, rate, Buckets(rate.per_second / self._replicas, rate.burst / self._replicas))


class _Limit(NamedTuple):
    """One limit, and the buckets that keep it."""

    name: Name
    rate: RateSpec
    buckets: Buckets

    def key(self, client: str) -> str:
        """Whose bucket a client takes from."""
        return client if self.name == "client" else ""

    def told(self, client: str, now: float) -> str:
        """What is left, as an item of the ratelimit field."""
        left, until_full = self.buckets.left(self.key(client), now)
        return f'"{self.name}";r={left};t={_seconds(until_full)}'


class _Limits(NamedTuple):
    """What holds for a client."""

    each: list[_Limit]
    policy: bytes


def rate_limit(
    limits: RateLimits, trusted_proxies: tuple[str, ...], now: Callable[[], float] = time.monotonic
) -> Guard:
    """The guard that keeps these limits, by API key where a request has one, otherwise by the client's address."""
    trusted = networks(trusted_proxies)

    def wrap(handler: Handler) -> Handler:
        async def limited(request: Request) -> Reply:
            client = client_of(request, trusted)
            own = request.key.rate if request.key is not None else None
            limits.enter(client, now(), own)
            try:
                reply = await handler(request)
            except Refusal as refusal:
                refusal.headers += limits.headers(client, now(), own)
                raise
            return reply.plus(limits.headers(client, now(), own))

        return limited

    return wrap


def _seconds(seconds: float) -> int:
    """Whole seconds, as headers want them, after which it is certainly over."""
    return max(math.ceil(seconds - 1e-6), 0)
