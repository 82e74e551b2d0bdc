"""Rate limits: how often one client, and all of them together, may ask."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from dlhpc.serving.exchange import Guard, Handler, Headers, Refusal, Reply, Request
from dlhpc.serving.guards.buckets import LOAN_S, BucketId, Buckets, Loan, Name, Report
from dlhpc.serving.guards.client_address import client_of, networks
from dlhpc.spec.rates import RateLimitsSpec, RateSpec

Observe = Callable[[Name], None]
"""Told of every refusal, with the limit that made it."""


class RateLimits:
    """The limits of one replica, which are its share of the server's.

    What one replica may grant, another may not, so that all together keep the limit: within any `t` seconds at most
    `burst + per_second * t` requests pass, and at most `replicas - burst` more where there are more replicas than
    `burst`, since each must be able to let one pass. A replica that is started anew has full buckets.

    With `exchange` replicas lend each other what they do not need. A token that is lent left its bucket at most LOAN_S
    before it is used, while the bucket went on filling: so at most `per_second * LOAN_S` more pass.
    """

    def __init__(self, spec: RateLimitsSpec, replicas: int, observe: Observe, lender: str | None = None) -> None:
        """`lender` is the name of a replica that takes part in exchanges."""
        self._replicas = replicas
        self._lender = lender
        self._observe = observe
        self._total = self._limit("total", spec.total)
        self._per_client = spec.per_client
        self._usual = self._joined(spec.per_client)
        self._of_own: dict[tuple[float, int], Limits] = {}

    def enter(self, client: str, now: float, own: RateSpec | None = None) -> None:
        """Count a request of a client, or raise the Refusal that tells it when to come again.

        `own` is the client's own limit, in place of the one for each client.
        """
        limits = self.of(own)
        wait, slowest = 0.0, None
        for limit in limits.each:
            its = limit.buckets.wait(limit.key(client), now)
            if its > wait:
                wait, slowest = its, limit
        if slowest is not None:
            slowest.buckets.refuse(slowest.key(client))
            raise self.refusal(slowest, wait, self.headers(client, now, own))
        for limit in limits.each:
            limit.buckets.take(limit.key(client), now)

    async def admit(self, client: str, now: float, own: RateSpec | None = None) -> Told:
        """See Limiter."""
        self.enter(client, now, own)
        return lambda later: self.headers(client, later, own)

    def refusal(self, limit: Limit, wait: float, headers: Headers) -> Refusal:
        """What a client is told who has to wait; it is counted."""
        self._observe(limit.name)
        whose = "this client's requests are" if limit.name == "client" else "the requests of all clients together are"
        return Refusal(
            "rate_limited",
            f"{whose} limited to {limit.rate.per_second:g} a second, {limit.rate.burst} at once: wait {wait:.3g} s",
            headers=(*headers, (b"retry-after", b"%d" % seconds(wait))),
        )

    def headers(self, client: str, now: float, own: RateSpec | None = None) -> Headers:
        """What a client is told with every answer (draft-ietf-httpapi-ratelimit-headers-10): the policies, then what
        this replica has left of each and the seconds until it has all of it again."""
        limits = self.of(own)
        if not limits.each:
            return ()
        left = ", ".join(limit.told(client, now) for limit in limits.each)
        return (b"ratelimit-policy", limits.policy), (b"ratelimit", left.encode())

    def exchange(self, wanted: Sequence[BucketId], loans: Sequence[Loan], now: float) -> Report:
        """Take what others lend, lend what others want and this replica does not, and say where it could use more."""
        for loan in loans:
            self._buckets(loan.bucket).borrow(loan.bucket.key, loan.tokens, loan.until, now)
        given = []
        for bucket in wanted:
            tokens = self._buckets(bucket).give(bucket.key, now)
            if tokens:
                given.append(Loan(bucket, tokens, now + LOAN_S))
        hungry: dict[BucketId, int] = {}
        every = [self._usual, *self._of_own.values()]
        for limit in {id(limit): limit for limits in every for limit in limits.each}.values():
            for key, count in limit.buckets.told_refused(now).items():
                hungry[BucketId(limit.name, limit.rate.per_second, limit.rate.burst, key)] = count
        return Report(self._lender or "", hungry, given)

    def _buckets(self, bucket: BucketId) -> Buckets:
        """The buckets among which one is, made where they are not yet there."""
        if bucket.name == "total":
            assert self._total is not None
            return self._total.buckets
        rate = RateSpec(per_second=bucket.per_second, burst=bucket.burst)
        limits = self._usual if rate == self._per_client else self.of(rate)
        return limits.each[0].buckets

    def of(self, own: RateSpec | None) -> Limits:
        """The limits of a client; those with equal limits of their own share the table of buckets."""
        if own is None:
            return self._usual
        key = own.per_second, own.burst
        found = self._of_own.get(key)
        if found is None:
            found = self._of_own[key] = self._joined(own)
        return found

    def _joined(self, per_client: RateSpec | None) -> Limits:
        each = [limit for limit in (self._limit("client", per_client), self._total) if limit is not None]
        policies = (f'"{name}";q={rate.burst};w={seconds(rate.window_s)}' for name, rate, _ in each)
        return Limits(each, ", ".join(policies).encode())

    def _limit(self, name: Name, rate: RateSpec | None) -> Limit | None:
        if rate is None:
            return None
        whole = None if self._lender is None else rate.burst
        share = Buckets(rate.per_second / self._replicas, rate.burst / self._replicas, whole=whole)
        return Limit(name, rate, share)


class Limit(NamedTuple):
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
        return item(self.name, left, until_full)


class Limits(NamedTuple):
    """What holds for a client."""

    each: list[Limit]
    policy: bytes


Told = Callable[[float], Headers]
"""What a client is told of its limits, at a time."""


class Limiter(Protocol):
    """Keeps the limits."""

    async def admit(self, client: str, now: float, own: RateSpec | None = None) -> Told:
        """Count a request of a client, whose own limit may be another, or raise its Refusal."""
        ...


def item(name: Name, left: int, until_full: float) -> str:
    """An item of the ratelimit field."""
    return f'"{name}";r={left};t={seconds(until_full)}'


def rate_limit(limits: Limiter, trusted_proxies: tuple[str, ...], now: Callable[[], float] = time.monotonic) -> Guard:
    """The guard that keeps these limits, by API key where a request has one, otherwise by the client's address."""
    trusted = networks(trusted_proxies)

    def wrap(handler: Handler) -> Handler:
        async def limited(request: Request) -> Reply:
            client = client_of(request, trusted)
            own = request.key.rate if request.key is not None else None
            told = await limits.admit(client, now(), own)
            try:
                reply = await handler(request)
            except Refusal as refusal:
                refusal.headers += told(now())
                raise
            return reply.plus(told(now()))

        return limited

    return wrap


def seconds(span: float) -> int:
    """Whole seconds, as headers want them, after which it is certainly over."""
    return max(math.ceil(span - 1e-6), 0)
