"""What cannot be answered in time is refused at once, and nothing else is."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlhpc.serving.exchange import Refusal, Reply, Request
from dlhpc.serving.guards.queue import Pace, queue
from dlhpc.serving.slots import Slot
from dlhpc.spec.serving import BatchingSpec, ServingSpec
from tests.serving.asgi import INFO, Answer, body, call, receiving, replica_of
from tests.serving.test_replica import Held, settle


def pace(*passes: tuple[int, float], max_batch_size: int = 4) -> Pace:
    made = Pace(max_batch_size)
    for size, seconds in passes:
        made.passed(size, seconds)
    return made


@pytest.mark.parametrize(
    ("waiting", "running", "expected"),
    [
        (0, None, 0.0),  # idle: whatever is asked may try
        (0, (4, 0.5), 1.5 + 1.0),  # the rest of this pass, then its own
        (0, (1, 0.5), 0.5 + 1.0),
        (3, (4, 0.5), 1.5 + 2.0),
        (4, (4, 0.5), 1.5 + 2.0 + 1.0),  # the next pass is full
        (9, None, 2 * 2.0 + 1.0),
        (1, (4, 60.0), 1.0),  # longer than passes take: it may end at any moment
    ],
)
def test_the_estimate(waiting: int, running: tuple[int, float] | None, expected: float) -> None:
    """A full pass takes two seconds, smaller ones one."""
    assert pace((4, 2.0), (1, 1.0)).expected(waiting, running) == pytest.approx(expected)


def test_before_the_first_pass_nothing_is_known() -> None:
    assert pace().expected(100, (4, 3.0)) == 0.0


@pytest.mark.parametrize(("seen", "expected"), [((1, 1.0), 3.0), ((4, 2.0), 6.0)])
def test_a_size_that_was_not_seen_is_taken_for_the_nearest(seen: tuple[int, float], expected: float) -> None:
    assert pace(seen).expected(8, None) == pytest.approx(expected)


@pytest.mark.parametrize("most", [1, 2, 3, 32, 33])
def test_every_size_has_its_place(most: int) -> None:
    for size in range(1, most + 1):
        assert pace((size, 1.0), max_batch_size=most).expected(1, None) > 0


@given(st.lists(st.floats(0.001, 10.0), min_size=1, max_size=30))
def test_the_average_lies_within_what_was_seen_and_follows(passes: list[float]) -> None:
    seen = [(2, seconds) for seconds in passes]
    assert min(passes) * 0.999 <= pace(*seen).expected(1, None) <= max(passes) * 1.001
    assert pace(*seen, *[(2, 1.0)] * 40).expected(1, None) == pytest.approx(1.0, rel=1e-3)


async def answer(request: Request) -> Reply:
    return Reply(200, b"")


@pytest.mark.parametrize(
    ("expected", "deadline", "retry_after"), [(5.0, 102.0, b"4"), (0.6, 100.5, b"1"), (900.0, 101.0, b"30")]
)
def test_a_hopeless_request_is_told_when_to_come_again(expected: float, deadline: float, retry_after: bytes) -> None:
    seen: list[None] = []
    asked = Request("POST", "/predict", [], receiving([]), "id")
    asked.deadline = deadline
    with pytest.raises(Refusal, match="are left") as caught:
        asyncio.run(queue(lambda request: expected, lambda: seen.append(None), lambda: 100.0)(answer)(asked))
    assert caught.value.code == "overloaded"
    assert (b"retry-after", retry_after) in caught.value.headers
    assert len(seen) == 1


@pytest.mark.parametrize("deadline", [None, 106.0, 200.0])
def test_others_pass(deadline: float | None) -> None:
    asked = Request("POST", "/predict", [], receiving([]), "id")
    asked.deadline = deadline
    assert asyncio.run(queue(lambda request: 5.0, lambda: None, lambda: 100.0)(answer)(asked)).status == 200


@pytest.mark.parametrize(("is_on", "status"), [(True, 503), (False, 504)])
def test_a_replica_refuses_at_once_what_its_queue_makes_hopeless(is_on: bool, status: int) -> None:
    """A pass takes an hour by what is known; the second request has a twentieth of a second."""

    async def scenario() -> tuple[Answer, list[int]]:
        model = Held()
        spec = ServingSpec(batching=BatchingSpec(max_batch_size=1, refuse_hopeless=is_on))
        replica = replica_of(Slot(INFO, model), spec, "r1")
        replica.models.lane().pace.passed(1, 3600.0)
        first = asyncio.create_task(call(replica.app, parts=[body()]))
        await asyncio.to_thread(model.has_begun.wait, 60)
        second = await call(replica.app, parts=[body()], headers=[("x-deadline-ms", "50")])
        model.is_free.set()
        assert (await first).status == 200
        await settle()
        return second, model.sizes

    refused, sizes = asyncio.run(scenario())
    assert (refused.status, sizes) == (status, [1])
