"""Replicas that lend each other tokens: never more than the stated overshoot, and the whole limit where wanted."""

from __future__ import annotations

import random
import threading
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlhpc.serving.exchange import Refusal
from dlhpc.serving.guards.buckets import LOAN_S, BucketId, Buckets, Loan, Report
from dlhpc.serving.guards.rate_limit import RateLimits
from dlhpc.serving.leases import EVERY_S, Leasing, Ledger
from dlhpc.spec.rates import RateLimitsSpec, RateSpec
from dlhpc.spec.serving import ServingSpec
from tests.serving.asgi import SLOT, replica_of


class Fleet:
    """Replicas and what passed, with messages that may be lost and a clock of the test's."""

    def __init__(self, spec: RateLimitsSpec, replicas: int) -> None:
        self.replicas = [
            RateLimits(spec, replicas, lambda name: None, lender=f"r{number}") for number in range(replicas)
        ]
        self.ledger = Ledger()
        self.wanted: Sequence[BucketId] = ()
        self.loans: Mapping[str, Sequence[Loan]] = {}
        self.now = 0.0
        self.passed: list[tuple[float, str]] = []

    def ask(self, number: int, client: str, own: RateSpec | None = None) -> None:
        try:
            self.replicas[number % len(self.replicas)].enter(client, self.now, own)
        except Refusal:
            return
        self.passed.append((self.now, client))

    def exchange(self, lost: frozenset[int] = frozenset()) -> None:
        """One exchange; a replica that is lost hears it, and its report does not arrive."""
        reports = [
            each.exchange(self.wanted, self.loans.get(f"r{number}", ()), self.now)
            for number, each in enumerate(self.replicas)
        ]
        self.wanted, self.loans = self.ledger.step([r for number, r in enumerate(reports) if number not in lost])

    def check(self, client: str, rate: RateSpec) -> None:
        """In no span of time more than the bucket, the rate, and the stated overshoot."""
        times = [now for now, who in self.passed if who in client]
        most = rate.burst + max(len(self.replicas) - rate.burst, 0) + rate.per_second * LOAN_S + 1e-6
        for first, since in enumerate(times):
            for last in range(first, len(times)):
                assert last - first + 1 <= most + rate.per_second * (times[last] - since)


EVENTS = st.one_of(
    st.tuples(st.just("pass"), st.floats(0.0, 1.5)),
    st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 4)),
    st.tuples(st.just("many a"), st.integers(0, 4)),
    st.tuples(st.just("exchange"), st.sets(st.integers(0, 4), max_size=2).map(frozenset)),
)


@given(
    st.integers(1, 5),
    st.builds(RateSpec, per_second=st.sampled_from([0.5, 3.0, 20.0]), burst=st.integers(1, 12)),
    st.builds(RateSpec, per_second=st.sampled_from([2.0, 30.0]), burst=st.integers(1, 20)),
    st.lists(EVENTS, max_size=60),
)
def test_however_messages_are_lost_no_more_passes_than_the_stated_overshoot(
    replicas: int, per_client: RateSpec, total: RateSpec, events: list[tuple[str, object]]
) -> None:
    fleet = Fleet(RateLimitsSpec(per_client=per_client, total=total), replicas)
    for what, value in events:
        match what, value:
            case "pass", float(seconds):
                fleet.now += seconds
            case "exchange", frozenset() as lost:
                fleet.exchange(lost)
            case "many a", int(number):
                for _ in range(8):
                    fleet.ask(number, "a")
            case client, int(number):
                fleet.ask(number, client)
    fleet.check("a", per_client)
    fleet.check("b", per_client)
    fleet.check("ab", total)


RATE = RateSpec(per_second=12.0, burst=24)


def run(fleet: Fleet, seconds: float, asked: Sequence[int], *, lends: bool, own: RateSpec | None = None) -> int:
    """How many of thirty requests a second pass, each to one of these replicas."""
    before, which = len(fleet.passed), random.Random(1)
    for step in range(int(seconds * 30)):
        fleet.now += 1 / 30
        fleet.ask(which.choice(asked), "a", own)
        if lends and step % int(30 * EVERY_S) == 0:
            fleet.exchange()
    return len(fleet.passed) - before


def test_a_client_of_one_replica_gets_the_whole_limit() -> None:
    spec = RateLimitsSpec(per_client=RATE)
    whole = RATE.burst + RATE.per_second * 20
    assert run(Fleet(spec, 3), 20, [0], lends=False) <= whole / 3 + 1
    fleet = Fleet(spec, 3)
    assert run(fleet, 20, [0], lends=True) >= 0.9 * whole
    fleet.check("a", RATE)
    assert run(fleet, 20, [0, 1, 2], lends=True) >= 0.9 * RATE.per_second * 20
    assert run(fleet, 20, [2], lends=True) >= 0.85 * RATE.per_second * 20
    fleet.check("a", RATE)


def test_without_the_supervisor_each_grants_its_share_and_no_more() -> None:
    fleet = Fleet(RateLimitsSpec(per_client=RATE), 3)
    run(fleet, 10, [0], lends=True)
    fleet.now += LOAN_S
    share = RATE.per_second * 20 / 3
    assert share - 2 <= run(fleet, 20, [0], lends=False) <= share + RATE.burst / 3 + 1


def test_a_limit_of_a_keys_own_is_lent_by_replicas_that_never_saw_it() -> None:
    fleet = Fleet(RateLimitsSpec(), 3)
    assert run(fleet, 20, [1], lends=True, own=RATE) >= 0.9 * (RATE.burst + RATE.per_second * 20)
    fleet.check("a", RATE)


def test_a_token_is_used_in_one_place_and_only_while_it_is_good() -> None:
    giver, taker = (Buckets(1.0, 4, whole=8) for _ in range(2))
    assert giver.give("a", 0.0) == 4
    assert giver.give("a", 0.0) == 0
    assert giver.wait("a", 0.0) == pytest.approx(1.0)
    taker.borrow("a", 9, until=1.0, now=0.0)
    assert taker.left("a", 0.0)[0] == 8  # for more there is no room
    for _ in range(5):
        assert taker.wait("a", 0.0) == 0.0
        taker.take("a", 0.0)
    assert taker.left("a", 0.99)[0] == 3
    assert taker.left("a", 1.0) == (1, 3.0)
    taker.told_refused(1.0)
    assert not taker._lent


def test_who_needs_its_tokens_lends_none() -> None:
    busy = Buckets(1.0, 4, whole=8)
    busy.take("a", 0.0)
    assert busy.give("a", 0.0) == 2  # three are left, and one was asked for lately
    busy.refuse("b")
    assert busy.give("b", 0.0) == 0
    assert busy.told_refused(0.0) == {"b": 1}
    assert busy.told_refused(0.0) == {}
    alone = Buckets(1.0, 4)
    alone.refuse("a")
    assert alone.told_refused(0.0) == {}  # nobody would ever ask


def test_what_is_given_goes_to_who_refused_in_proportion() -> None:
    bucket = BucketId("client", 1.0, 8, "a")
    ledger = Ledger()
    wanted, loans = ledger.step([Report("r0", {bucket: 6}, ()), Report("r1", {bucket: 3}, ()), Report("r2", {}, ())])
    assert (wanted, loans) == ([bucket], {})
    wanted, loans = ledger.step([Report("r2", {}, [Loan(bucket, 7, 5.0)])])
    assert wanted == [bucket]
    assert loans == {"r0": [Loan(bucket, 4, 5.0)], "r1": [Loan(bucket, 3, 5.0)]}
    for _ in range(3):
        wanted, _ = ledger.step(())
    assert wanted == []
    assert ledger.step([Report("r2", {}, [Loan(bucket, 7, 5.0)])])[1] == {}


def test_an_exchange_that_fails_is_followed_by_another(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("dlhpc.serving.leases.EVERY_S", 0.001)
    calls: list[int] = []
    enough = threading.Event()

    def exchange(wanted: Sequence[BucketId], loans: Mapping[str, Sequence[Loan]]) -> Sequence[Report]:
        calls.append(len(wanted))
        if len(calls) == 2:
            raise OSError("gone")
        if len(calls) == 4:
            enough.set()
        return [Report("r0", {BucketId("total", 1.0, 1, ""): 1}, ())]

    leasing = Leasing(exchange)
    assert enough.wait(60)
    leasing.stop()
    assert calls[:4] == [0, 1, 1, 1]
    assert "each replica grants its share" in caplog.text


@pytest.mark.parametrize(
    ("settings", "lends"),
    [
        ({"replicas": 2, "rate_limits": {"total": {"per_second": 1.0}}}, True),
        ({"replicas": 1, "rate_limits": {"total": {"per_second": 1.0}}}, False),
        ({"replicas": 2}, False),
        ({"replicas": 2, "rate_limits": {"total": {"per_second": 1.0}, "redis": "redis://x"}}, False),
    ],
)
def test_only_replicas_that_share_limits_lend(settings: dict[str, object], lends: bool) -> None:
    spec = ServingSpec.model_validate(settings)
    assert spec.lends_rates == lends
    report = replica_of(SLOT, spec, "r1").exchange_rates([], {})
    assert (report.replica, report.refused, list(report.given)) == ("r1" if lends else "", {}, [])
