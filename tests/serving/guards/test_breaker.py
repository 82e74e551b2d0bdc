"""The breaker opens for what is a version's fault, tries with few, and closes again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dlhpc.serving.exchange import ClientGone, Refusal, Reply, Request
from dlhpc.serving.guards.breaker import PARTS, Breaker, Outcome, Ticket, Window, broken
from dlhpc.serving.replica import Replica
from dlhpc.serving.slots import Slot
from dlhpc.spec.breaker import BreakerSpec
from dlhpc.spec.serving import ServingSpec
from tests.serving.asgi import INFO, Answer, body, brightness, call, png, receiving, replica_of

SPEC = BreakerSpec(
    window_s=10.0, min_requests=4, failure_ratio=0.5, slow_pass_s=2.0, min_passes=2, open_s=5.0, probes=2
)


def breaker() -> tuple[Breaker, list[str]]:
    changes: list[str] = []
    return Breaker("m:1", SPEC, changes.append), changes


def ask(asked: Breaker, now: float, outcome: Outcome) -> None:
    asked.leave(asked.enter(now), outcome, now)


def opened() -> tuple[Breaker, list[str]]:
    made, changes = breaker()
    for _ in range(4):
        ask(made, 0.0, "bad")
    assert made.state == "open"
    return made, changes


@given(st.lists(st.tuples(st.floats(0.0, 100.0), st.booleans()), max_size=80).map(sorted), st.floats(0.0, 20.0))
def test_a_window_counts_the_last_seconds(events: list[tuple[float, bool]], later: float) -> None:
    window = Window(10.0)
    for now, is_bad in events:
        window.add(now, is_bad=is_bad)
    now = (events[-1][0] if events else 0.0) + later
    total, bad = window.counts(now)
    within = [is_bad for when, is_bad in events if now - when < 10.0 * (1 - 1 / PARTS)]
    perhaps = [is_bad for when, is_bad in events if now - when <= 10.0 * (1 + 1 / PARTS)]
    assert len(within) <= total <= len(perhaps)
    assert sum(within) <= bad <= sum(perhaps)


@pytest.mark.parametrize(
    ("outcomes", "state"),
    [
        (["bad"] * 3, "closed"),  # too few to judge by
        (["bad"] * 4, "open"),
        (["good", "good", "bad", "bad"], "open"),
        (["good", "good", "good", "bad"], "closed"),
        (["neither"] * 50, "closed"),
        (["good"] * 5 + ["neither"] * 20 + ["bad"] * 4, "closed"),
        (["good"] * 5 + ["bad"] * 5, "open"),
    ],
)
def test_it_opens_at_the_share_of_failures(outcomes: list[Outcome], state: str) -> None:
    made, _ = breaker()
    for outcome in outcomes:
        ask(made, 1.0, outcome)
    assert made.state == state


def test_old_failures_are_forgotten() -> None:
    made, _ = breaker()
    for now in (0.0, 0.0, 0.0, 12.0, 24.0, 36.0):
        ask(made, now, "bad")
    assert made.state == "closed"


@pytest.mark.parametrize(
    ("passes", "state"), [([3.0], "closed"), ([2.0, 2.0], "open"), ([3.0, 1.9], "closed"), ([0.1] + [3.0] * 4, "open")]
)
def test_it_opens_when_forward_passes_are_slow(passes: list[float], state: str) -> None:
    made, _ = breaker()
    for seconds in passes:
        made.passed(seconds, 1.0)
    assert made.state == state


def test_open_it_refuses_and_says_for_how_long() -> None:
    made, changes = opened()
    with pytest.raises(Refusal, match="m:1 has been failing") as caught:
        made.enter(1.2)
    assert caught.value.code == "breaker_open"
    assert (b"retry-after", b"4") in caught.value.headers
    assert changes == ["open"]


def test_rounding_does_not_make_the_wait_longer() -> None:
    made, _ = breaker()
    now = 3.059
    assert (now + SPEC.open_s) - now > SPEC.open_s
    for _ in range(SPEC.min_requests):
        ask(made, now, "bad")
    with pytest.raises(Refusal) as caught:
        made.enter(now)
    assert (b"retry-after", b"5") in caught.value.headers


def test_half_open_a_few_may_try_and_when_all_succeed_it_closes() -> None:
    made, changes = opened()
    first, second = made.enter(5.0), made.enter(5.0)
    with pytest.raises(Refusal):
        made.enter(5.0)
    made.leave(first, "good", 6.0)
    with pytest.raises(Refusal):  # one has succeeded, one is trying: two in all
        made.enter(6.0)
    made.leave(second, "good", 6.0)
    assert changes == ["open", "half_open", "closed"]
    ask(made, 6.0, "bad")
    assert made.state == "closed"  # it starts with a clean slate


@pytest.mark.parametrize("fails", [lambda b, t: b.leave(t, "bad", 6.0), lambda b, t: b.passed(2.0, 6.0)])
def test_half_open_one_failure_opens_it_again(fails: Callable[[Breaker, Ticket], None]) -> None:
    made, changes = opened()
    fails(made, made.enter(5.0))
    assert changes == ["open", "half_open", "open"]
    with pytest.raises(Refusal):
        made.enter(10.9)
    made.enter(11.0)


def test_a_try_that_came_to_nothing_makes_room_for_another() -> None:
    made, _ = opened()
    for _ in range(10):
        ask(made, 5.0, "neither")
    assert made.state == "half_open"
    made.enter(5.0)
    made.enter(5.0)


def test_what_entered_before_a_change_does_not_count_after_it() -> None:
    made, _ = breaker()
    old = [made.enter(0.0) for _ in range(10)]
    for ticket in old[:4]:
        made.leave(ticket, "bad", 0.0)
    made.enter(5.0)
    assert made.state == "half_open"
    for ticket in old[4:]:
        made.leave(ticket, "good", 5.0)
    assert made.state == "half_open"


class Machine(RuleBasedStateMachine):
    """Whatever happens in whatever order, few try at once and only open refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.breaker, self.changes = breaker()
        self.inside: list[Ticket] = []

    @rule(seconds=st.floats(0.0, 8.0))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def enter(self) -> None:
        was = self.breaker.state
        try:
            self.inside.append(self.breaker.enter(self.now))
        except Refusal as refusal:
            assert was != "closed"
            (wait,) = (int(value) for name, value in refusal.headers if name == b"retry-after")
            assert 1 <= wait <= SPEC.open_s
        else:
            assert self.breaker.state != "open"

    @precondition(lambda self: self.inside)
    @rule(data=st.data(), outcome=st.sampled_from(["good", "bad", "neither"]))
    def leave(self, data: st.DataObject, outcome: Outcome) -> None:
        ticket = self.inside.pop(data.draw(st.integers(0, len(self.inside) - 1)))
        self.breaker.leave(ticket, outcome, self.now)

    @rule(seconds=st.floats(0.0, 4.0))
    def passed(self, seconds: float) -> None:
        self.breaker.passed(seconds, self.now)

    @invariant()
    def few_try_at_once(self) -> None:
        period = self.breaker._period
        if self.breaker.state == "half_open":
            assert sum(ticket.period == period for ticket in self.inside) <= SPEC.probes

    @invariant()
    def changes_follow_each_other(self) -> None:
        follows = {"closed": {"half_open"}, "half_open": {"open"}, "open": {"closed", "half_open"}}
        states = ["closed", *self.changes]
        assert all(before in follows[after] for before, after in pairwise(states))


TestMachine = Machine.TestCase


def outcome_of(handler: Any, *, deadline: float | None = None, passed: float | None = None) -> str:
    """What the guard makes of one request that is handled so; the clock stands at 100."""
    told: list[str] = []

    class Spy(Breaker):
        def leave(self, ticket: Ticket, outcome: Outcome, now: float) -> None:
            told.append(outcome)

    spy = Spy("m:1", SPEC, lambda state: None)
    asked = Request("POST", "/predict", [], receiving([b"x"]), "id")
    asked.deadline = deadline

    async def scenario() -> None:
        await asked.body(10)

        async def handle(request: Request) -> Reply:
            if passed is not None:
                spy.passed(0.1, passed)
            return await handler(request)  # type: ignore[no-any-return]

        task = asyncio.create_task(broken(spy, lambda: 100.0)(handle)(asked))
        await asyncio.wait([task], timeout=0.01)
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(scenario())
    return told[0]


def raising(error: BaseException) -> Any:
    async def handler(request: Request) -> Reply:
        raise error

    return handler


async def hang(request: Request) -> Reply:
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


async def answer(request: Request) -> Reply:
    return Reply(200, b"")


async def answer_in_part(request: Request) -> Reply:
    return Reply(200, b"", has_failures=True)


@pytest.mark.parametrize(
    ("handler", "outcome"),
    [
        (answer, "good"),
        (answer_in_part, "bad"),
        (raising(Refusal("prediction_failed", "")), "bad"),
        (raising(RuntimeError()), "bad"),
        (raising(Refusal("bad_image", "")), "neither"),
        (raising(Refusal("overloaded", "")), "neither"),
        (raising(ClientGone()), "neither"),
    ],
)
def test_only_the_versions_own_faults_count(handler: Any, outcome: str) -> None:
    assert outcome_of(handler) == outcome


@pytest.mark.parametrize(
    ("deadline", "passed", "outcome"),
    [
        (100.0, None, "bad"),  # no pass ended while it waited: the model hangs
        (100.0, 100.0, "neither"),  # passes ended: it was the queue that took its time
        (101.0, None, "neither"),  # its client went away before its time was over
        (None, None, "neither"),
    ],
)
def test_a_deadline_that_passed_counts_when_the_model_hangs(
    deadline: float | None, passed: float | None, outcome: str
) -> None:
    assert outcome_of(hang, deadline=deadline, passed=passed) == outcome


class Ill:
    """The model of SLOT, which fails while it is ill."""

    def __init__(self) -> None:
        self.is_ill = True
        self.calls = 0

    def __call__(self, inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        self.calls += 1
        if self.is_ill:
            raise RuntimeError("ill")
        return brightness(inputs)


def states(replica: Replica) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, sample.labels.get("to", "")): sample.value
        for family in replica.snapshot().families
        for sample in family.samples
        if sample.name.startswith("dlhpc_breaker")
    }


def test_a_replica_leaves_a_failing_version_alone_and_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    model = Ill()
    spec = ServingSpec(breaker=BreakerSpec(min_requests=4, open_s=0.02, probes=1))
    replica = replica_of(Slot(INFO, model), spec, "r1")

    async def scenario() -> list[Answer]:
        failed = [await call(replica.app, parts=[body()]) for _ in range(4)]
        refused = await call(replica.app, parts=[body()])
        calls = model.calls
        model.is_ill = False
        while (answer := await call(replica.app, parts=[body()])).status == 503:
            await asyncio.sleep(0)
        assert calls == 4
        return [*failed, refused, answer, await call(replica.app, parts=[body(png(1))])]

    with caplog.at_level(logging.INFO):
        answers = asyncio.run(scenario())
    assert [each.status for each in answers] == [500] * 4 + [503, 200, 200]
    assert (answers[4].json["code"], answers[4].headers["retry-after"]) == ("breaker_open", "1")
    assert states(replica) == {
        ("dlhpc_breaker_state", ""): 0,
        ("dlhpc_breaker_changes_total", "open"): 1,
        ("dlhpc_breaker_changes_total", "half_open"): 1,
        ("dlhpc_breaker_changes_total", "closed"): 1,
    }
    assert "m:1: open: 4 of its last 4 predictions failed" in caplog.text
    assert "m:1: closed" in caplog.text


def test_it_can_be_switched_off() -> None:
    replica = replica_of(Slot(INFO, Ill()), ServingSpec(breaker=BreakerSpec(enabled=False, min_requests=1)), "r1")

    async def scenario() -> list[int]:
        return [(await call(replica.app, parts=[body()])).status for _ in range(6)]

    assert asyncio.run(scenario()) == [500] * 6
    assert states(replica)[("dlhpc_breaker_state", "")] == 0
