"""Token buckets grant what they should and never more; the limits of many replicas add up to the server's."""

from __future__ import annotations

import asyncio
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlhpc.serving.exchange import Refusal, Reply, Request
from dlhpc.serving.guards.buckets import Buckets
from dlhpc.serving.guards.rate_limit import RateLimits, rate_limit
from dlhpc.serving.replica import Replica
from dlhpc.spec.rates import RateLimitsSpec, RateSpec
from dlhpc.spec.serving import ServingSpec
from tests.serving.asgi import SLOT, Answer, body, call, receiving, replica_of

RATES = st.builds(
    RateSpec, per_second=st.floats(0.01, 1000.0, allow_nan=False), burst=st.integers(min_value=1, max_value=50)
)
TIMES = st.lists(st.floats(0.0, 20.0, allow_nan=False), max_size=200).map(sorted)


def granted(buckets: Buckets, key: str, times: list[float]) -> list[float]:
    """The times at which a token was taken."""
    taken = []
    for now in times:
        if buckets.wait(key, now) == 0:
            buckets.take(key, now)
            taken.append(now)
    return taken


@given(RATES, TIMES)
def test_no_span_of_time_has_more_than_its_tokens(rate: RateSpec, times: list[float]) -> None:
    taken = granted(Buckets(rate.per_second, rate.burst), "a", times)
    for first in range(len(taken)):
        for last in range(first, len(taken)):
            most = rate.burst + rate.per_second * (taken[last] - taken[first])
            assert last - first + 1 <= most * (1 + 1e-6) + 1e-6


@given(RATES, TIMES)
def test_after_the_wait_that_was_told_there_is_a_token_and_before_there_is_none(
    rate: RateSpec, times: list[float]
) -> None:
    buckets = Buckets(rate.per_second, rate.burst)
    granted(buckets, "a", times)
    now = times[-1] if times else 0.0
    wait = buckets.wait("a", now)
    assert buckets.wait("a", now + wait) <= 1e-9 * (now + wait + 1)
    assert wait == 0 or buckets.wait("a", now + wait / 2) > 0
    left, until_full = buckets.left("a", now)
    assert (left >= 1) == (wait == 0)
    assert buckets.left("a", now + until_full)[0] == rate.burst


def test_a_burst_then_the_rate() -> None:
    buckets = Buckets(per_second=2.0, burst=3)
    assert granted(buckets, "a", [0.0] * 5) == [0.0] * 3
    assert buckets.wait("a", 0.0) == pytest.approx(0.5)
    assert granted(buckets, "a", [0.4, 0.5, 0.5, 1.0]) == [0.5, 1.0]
    assert granted(buckets, "a", [60.0] * 5) == [60.0] * 3
    assert buckets.left("b", 60.0) == (3, 0.0)


def test_full_buckets_are_forgotten_and_never_more_than_the_most_are_remembered() -> None:
    buckets = Buckets(per_second=1.0, burst=1, most_keys=10)
    for number in range(50):
        buckets.take(str(number), 0.0)
    assert len(buckets) == 10
    assert buckets.wait("49", 0.5) == pytest.approx(0.5)
    for number in range(20):
        buckets.take(f"later {number}", 100.0 + number)
    assert len(buckets) <= 2


LIMITS = RateLimitsSpec(per_client=RateSpec(per_second=1.0, burst=6), total=RateSpec(per_second=4.0, burst=9))


@given(
    st.integers(1, 12),
    st.lists(st.tuples(st.floats(0.0, 5.0), st.integers(0, 11), st.sampled_from("ab")), max_size=150).map(sorted),
)
def test_replicas_together_keep_the_limit_within_the_stated_overshoot(
    replicas: int, requests: list[tuple[float, int, str]]
) -> None:
    each = [RateLimits(LIMITS, replicas, lambda name: None) for _ in range(replicas)]
    passed: list[tuple[float, str]] = []
    for now, number, client in requests:
        try:
            each[number % replicas].enter(client, now)
        except Refusal:
            continue
        passed.append((now, client))
    for client, rate in (("a", LIMITS.per_client), ("b", LIMITS.per_client), ("ab", LIMITS.total)):
        times = [now for now, who in passed if who in client]
        overshoot = max(replicas - rate.burst, 0)
        assert all(
            later - first + 1 <= rate.burst + rate.per_second * (times[later] - times[first]) + overshoot + 1e-6
            for first in range(len(times))
            for later in range(first, len(times))
        )


def test_one_client_does_not_use_up_anothers_and_a_refused_request_costs_nothing() -> None:
    seen: list[str] = []
    limits = RateLimits(LIMITS, 1, seen.append)
    for _ in range(6):
        limits.enter("a", 0.0)
    for _ in range(20):
        with pytest.raises(Refusal, match="this client's requests") as caught:
            limits.enter("a", 0.0)
    assert caught.value.code == "rate_limited"
    for _ in range(3):
        limits.enter("b", 0.0)
    with pytest.raises(Refusal, match="all clients together"):
        limits.enter("c", 0.0)
    assert seen == ["client"] * 20 + ["total"]


def test_what_is_left_is_told_as_the_draft_writes_it() -> None:
    limits = RateLimits(LIMITS, 1, lambda name: None)
    limits.enter("a", 0.0)
    told = {key.decode(): value.decode() for key, value in limits.headers("a", 0.5)}
    assert told == {
        "ratelimit-policy": '"client";q=6;w=6, "total";q=9;w=3',
        "ratelimit": '"client";r=5;t=1, "total";r=9;t=0',
    }


@pytest.mark.parametrize(("per_second", "wait"), [(0.1, "10"), (5.0, "1"), (0.3, "4")])
def test_retry_after_is_in_whole_seconds_and_long_enough(per_second: float, wait: str) -> None:
    limits = RateLimits(RateLimitsSpec(per_client=RateSpec(per_second=per_second, burst=1)), 1, lambda name: None)
    limits.enter("a", 0.0)
    with pytest.raises(Refusal) as caught:
        limits.enter("a", 0.0)
    assert (b"retry-after", wait.encode()) in caught.value.headers


def test_a_refusal_from_further_in_has_the_headers_too() -> None:
    async def refuse(request: Request) -> Reply:
        raise Refusal("bad_image", "no")

    guard = rate_limit(RateLimits(LIMITS, 1, lambda name: None), (), lambda: 0.0)
    with pytest.raises(Refusal) as caught:
        asyncio.run(guard(refuse)(Request("POST", "/predict", [], receiving([]), "id", "192.0.2.1")))
    assert (b"ratelimit", b'"client";r=5;t=1, "total";r=8;t=1') in caught.value.headers


def statuses(spec: ServingSpec, *requests: tuple[str, str]) -> tuple[list[Answer], Replica]:
    """The answers of a replica to (client's address, X-Forwarded-For)."""
    replica = replica_of(SLOT, spec, "r1")

    async def scenario() -> list[Answer]:
        return [
            await call(replica.app, parts=[body()], client=client, headers=[("x-forwarded-for", said)])
            for client, said in requests
        ]

    return asyncio.run(scenario()), replica


SLOW = RateLimitsSpec(per_client=RateSpec(per_second=0.001, burst=1))


def test_a_replica_refuses_the_second_request_of_an_address_and_tells_when_to_come_again() -> None:
    spec = ServingSpec(rate_limits=SLOW)
    answers, replica = statuses(spec, ("192.0.2.1", "10.0.0.1"), ("192.0.2.1", "10.0.0.2"), ("192.0.2.2", "10.0.0.1"))
    assert [answer.status for answer in answers] == [200, 429, 200]
    assert (answers[1].json["code"], answers[1].headers["retry-after"]) == ("rate_limited", "1000")
    assert re.fullmatch(r'"client";r=0;t=\d+', answers[0].headers["ratelimit"])
    (counted,) = (
        sample.value
        for family in replica.snapshot().families
        for sample in family.samples
        if sample.name == "dlhpc_rate_limited_total"
    )
    assert counted == 1


def test_behind_a_trusted_proxy_the_address_is_the_one_that_it_names() -> None:
    spec = ServingSpec(rate_limits=SLOW, trusted_proxies=("192.0.2.0/24",))
    answers, _ = statuses(spec, ("192.0.2.1", "10.0.0.1"), ("192.0.2.1", "10.0.0.2"), ("192.0.2.2", "10.0.0.1"))
    assert [answer.status for answer in answers] == [200, 200, 429]


def test_without_limits_nothing_is_counted_and_nothing_is_told() -> None:
    answers, _ = statuses(ServingSpec(), *[("192.0.2.1", "")] * 3)
    assert [answer.status for answer in answers] == [200] * 3
    assert "ratelimit" not in answers[0].headers


def test_every_replica_gets_its_share() -> None:
    limits = RateLimitsSpec(total=RateSpec(per_second=0.001, burst=4))
    answers, _ = statuses(ServingSpec(rate_limits=limits, replicas=2), *[("192.0.2.1", "")] * 4)
    assert [answer.status for answer in answers] == [200, 200, 429, 429]
