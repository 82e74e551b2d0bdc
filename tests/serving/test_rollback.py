"""When a version on trial has failed it."""

from __future__ import annotations

import pytest

from dlhpc.serving.evidence import Counts
from dlhpc.serving.rollback import verdict
from dlhpc.spec.served import RollbackSpec

SPEC = RollbackSpec(min_requests=10, failure_excess=0.1, slowdown=2.0, disagreement=0.2)
WELL = Counts(answers=100, seconds=1.0)


@pytest.mark.parametrize(
    ("trial", "stable", "reason"),
    [
        (Counts(answers=10, seconds=0.1), WELL, None),
        (Counts(answers=9, failed=9), WELL, None),
        (Counts(answers=10, failed=1), WELL, None),
        (Counts(answers=10, failed=2), WELL, "it failed on 2 of 10 images, the stable version on 0.00%"),
        (Counts(answers=10, failed=2), Counts(answers=100, failed=15), None),
        (Counts(answers=10, failed=2), Counts(), "it failed on 2 of 10 images, the stable version on 0.00%"),
        (Counts(answers=10, seconds=0.2), WELL, None),
        (Counts(answers=10, seconds=0.21), WELL, "it took 21 ms for an image, the stable version 10 ms"),
        (Counts(answers=10, seconds=0.21), Counts(answers=9, seconds=0.09), None),
        (Counts(answers=10, seconds=0.05), Counts(answers=10, seconds=0.001), None),
        (Counts(answers=10, seconds=0.06), Counts(answers=10, seconds=0.001), "it took 6 ms"),
        (Counts(compared=10, differed=2), WELL, None),
        (Counts(compared=10, differed=3), WELL, "another class than the stable version for 3 of 10 images"),
        (Counts(compared=9, differed=9), WELL, None),
    ],
)
def test_it_is_judged_beside_the_stable_version(trial: Counts, stable: Counts, reason: str | None) -> None:
    found = verdict(trial, stable, SPEC)
    assert found is None if reason is None else reason in (found or "")


def test_an_open_breaker_is_enough() -> None:
    assert verdict(Counts(), Counts(), SPEC, is_broken=True) == "its circuit breaker has opened"


@pytest.mark.parametrize(
    ("setting", "trial"),
    [
        ({"min_requests": 200}, Counts(answers=100, failed=100)),
        ({"failure_excess": 1.0}, Counts(answers=100, failed=100, seconds=1.0)),
        ({"slowdown": 200.0}, Counts(answers=100, seconds=100.0)),
        ({"disagreement": 1.0}, Counts(compared=100, differed=100)),
    ],
)
def test_each_setting_counts(setting: dict[str, float], trial: Counts) -> None:
    assert verdict(trial, WELL, SPEC) is not None
    assert verdict(trial, WELL, SPEC.model_copy(update=setting)) is None
