"""Counts add up over replicas, and are those of the last seconds."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from dlhpc.serving.evidence import Counts, Recent, Tally, has_failed, label


def test_counts_add_up() -> None:
    assert Counts(1, 2, 3.0, 4, 5) + Counts(answers=1, differed=1) == Counts(2, 2, 3.0, 4, 6)


def test_counts_since_a_restart_are_all_that_there_are() -> None:
    assert Counts(answers=7, failed=2).since(Counts(answers=5, failed=1)) == Counts(answers=2, failed=1)
    assert Counts(answers=3, failed=2).since(Counts(answers=5)) == Counts(answers=3, failed=2)


def test_a_tally_counts() -> None:
    tally = Tally()
    tally.ended(0.5, has_failed=False)
    tally.ended(0.25, has_failed=True)
    tally.compared(has_differed=True)
    tally.compared(has_differed=False)
    assert tally.counts == Counts(2, 1, 0.75, 2, 1)


@pytest.mark.parametrize(
    ("error", "failed"), [(None, False), (TimeoutError(), False), (ArithmeticError(), True), ("cancelled", False)]
)
def test_only_what_the_model_failed_on_has_failed(error: Exception | str | None, failed: bool) -> None:
    async def scenario() -> bool:
        future: asyncio.Future[np.ndarray[tuple[int, ...], np.dtype[np.float32]]] = asyncio.Future()
        if isinstance(error, Exception):
            future.set_exception(error)
        elif error is None:
            future.set_result(np.zeros(2, np.float32))
        else:
            future.cancel()
        return has_failed(future)

    assert asyncio.run(scenario()) is failed


def test_the_label_is_the_most_probable_class() -> None:
    assert label(("a", "b"), np.array([0.25, 0.75], np.float32)) == "b"


def test_recent_counts_are_those_of_the_window_and_of_the_replicas_that_there_are() -> None:
    recent = Recent(60.0)
    assert recent.of("d") == Counts()
    recent.add(0.0, [("r1", "d", Counts(answers=100)), ("r2", "d", Counts(answers=50))])
    recent.add(30.0, [("r1", "d", Counts(answers=110)), ("r2", "d", Counts(answers=60))])
    assert recent.of("d") == Counts(answers=20)
    recent.add(60.0, [("r1", "d", Counts(answers=115)), ("r3", "d", Counts(answers=7))])  # r2 died, r3 came
    assert recent.of("d") == Counts(answers=22)
    recent.add(90.0, [("r1", "d", Counts(answers=115)), ("r3", "d", Counts(answers=7))])
    assert recent.of("d") == Counts(answers=12)  # since 30.0
    assert recent.of("e") == Counts()
