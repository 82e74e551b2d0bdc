"""Limits in Redis, with its script written out in Python; tests/deploy/test_redis.py asks a real one."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import Sequence

import pytest

from dlhpc.errors import MissingExtraError
from dlhpc.serving.exchange import Refusal
from dlhpc.serving.guards.rate_limit import Limiter, RateLimits
from dlhpc.serving.guards.redis_rates import AWAY_S, RedisRates, redis_script
from dlhpc.spec.rates import RateLimitsSpec, RateSpec
from dlhpc.spec.serving import ServingSpec
from tests.serving.asgi import SLOT, body, call, replica_of

SPEC = RateLimitsSpec(
    per_client=RateSpec(per_second=1.0, burst=4), total=RateSpec(per_second=4.0, burst=9), redis="redis://nowhere:1"
)


class Store:
    """What SCRIPT does, at the time that the test says; `fault` is raised instead."""

    def __init__(self) -> None:
        self.full_at: dict[str, float] = {}
        self.now = 1000.0
        self.fault: Exception | None = None
        self.asked = 0

    async def __call__(self, keys: list[str], arguments: list[float]) -> Sequence[bytes]:
        self.asked += 1
        if self.fault is not None:
            raise self.fault
        spans = list(zip(arguments[::2], arguments[1::2], strict=True))
        full = [max(self.full_at.get(key, 0.0), self.now) for key in keys]
        waits = [max(at - self.now + each - depth, 0.0) for at, (each, depth) in zip(full, spans, strict=True)]
        if not any(waits):
            full = [at + each for at, (each, _) in zip(full, spans, strict=True)]
            self.full_at.update(zip(keys, full, strict=True))
        return [b"%.6f" % value for at, wait in zip(full, waits, strict=True) for value in (wait, at - self.now)]


def limiter(store: Store, spec: RateLimitsSpec = SPEC, replicas: int = 2) -> RedisRates:
    return RedisRates(spec, RateLimits(spec, replicas, lambda name: None), store)


def passed(limiters: Sequence[Limiter], client: str, count: int, now: float = 0.0) -> int:
    """How many of so many requests pass, in turns by each."""

    async def run() -> int:
        granted = 0
        for number in range(count):
            try:
                await limiters[number % len(limiters)].admit(client, now)
            except Refusal as refusal:
                granted += refusal.code != "rate_limited"
            else:
                granted += 1
        return granted

    return asyncio.run(run())


def test_any_number_of_replicas_grant_what_the_limit_says_whichever_is_asked() -> None:
    store = Store()
    fleet = [limiter(store) for _ in range(3)]
    assert passed(fleet[:1], "a", 10) == 4  # all by one, which alone would have a share of two
    assert passed(fleet, "a", 10) == 0
    store.now += 2.0
    assert passed(fleet, "a", 10) == 2
    assert passed(fleet, "b", 10) == 4
    assert passed(fleet, "c", 10) == 3  # of nine for all
    assert passed(fleet, "d", 10) == 0


def test_what_is_left_and_when_to_come_again_are_told() -> None:
    store = Store()
    one = limiter(store)
    headers = {key.decode(): value.decode() for key, value in asyncio.run(one.admit("a", 0.0))(0.25)}
    assert headers == {
        "ratelimit-policy": '"client";q=4;w=4, "total";q=9;w=3',
        "ratelimit": '"client";r=3;t=1, "total";r=9;t=0',
    }
    passed([one], "a", 10)
    with pytest.raises(Refusal, match="this client's requests are limited to 1 a second, 4 at once") as caught:
        asyncio.run(one.admit("a", 0.0))
    assert (b"retry-after", b"1") in caught.value.headers
    assert (b"ratelimit", b'"client";r=0;t=4, "total";r=5;t=1') in caught.value.headers


def test_a_keys_own_limit_is_kept_there_too() -> None:
    store, own = Store(), RateSpec(per_second=1.0, burst=1)
    one, other = limiter(store), limiter(store)
    asyncio.run(one.admit("key k", 0.0, own))
    with pytest.raises(Refusal, match="1 at once"):
        asyncio.run(other.admit("key k", 0.0, own))


@pytest.mark.parametrize("fault", [ConnectionError("refused"), TimeoutError(), ValueError("LOADING")])
def test_without_redis_each_grants_its_share_and_does_not_ask_for_a_while(
    fault: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store()
    store.fault = fault
    one = limiter(store)
    assert passed([one], "a", 10) == 2
    assert store.asked == 1
    store.fault = None
    assert passed([one], "b", 10, now=AWAY_S - 0.01) == 2
    assert store.asked == 1
    assert passed([one], "c", 10, now=AWAY_S) == 4
    told = [record.levelno for record in caplog.records if "Redis" in record.message]
    assert told == [logging.ERROR, logging.WARNING]


def test_without_redis_requests_are_refused_where_that_is_wanted() -> None:
    store = Store()
    store.fault = ConnectionError("refused")
    strict = limiter(store, SPEC.model_copy(update={"when_redis_is_away": "refuse"}))
    for _ in range(2):
        with pytest.raises(Refusal) as caught:
            asyncio.run(strict.admit("a", 0.0))
        assert (caught.value.code, caught.value.headers) == ("unavailable", ((b"retry-after", b"1"),))
    assert store.asked == 1


def test_a_redis_that_does_not_answer_holds_nobody_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and says nothing
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}"
        spec = ServingSpec(
            rate_limits=RateLimitsSpec(total=RateSpec(per_second=0.001, burst=2), redis=url, redis_timeout_ms=20.0)
        )

        async def run() -> list[int]:
            replica = replica_of(SLOT, spec, "r1")
            return [(await call(replica.app, parts=[body()])).status for _ in range(3)]

        assert asyncio.run(run()) == [200, 200, 429]


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    with pytest.raises(MissingExtraError, match=r"rate_limits\.redis needs 'redis': pip install .*\[redis\]"):
        redis_script(SPEC)


@pytest.mark.parametrize("url", ["localhost:6379", "http://x", ""])
def test_a_url_that_is_none_of_redis_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="expected redis://host:port"):
        RateLimitsSpec(redis=url)
