"""When a version on trial has failed it: a function of counts."""

from __future__ import annotations

from typing import Final

from dlhpc.serving.evidence import Counts
from dlhpc.spec.served import RollbackSpec

SLACK_S: Final = 0.005
"""Slower by less than this is nothing to roll back for, however fast the other is."""


def verdict(trial: Counts, stable: Counts, spec: RollbackSpec, *, is_broken: bool = False) -> str | None:
    """Why a version must be rolled back, judged beside the stable one; None while it may go on.

    `is_broken` tells that a circuit breaker has opened on it.
    """
    if is_broken:
        return "its circuit breaker has opened"
    if trial.compared >= spec.min_requests and trial.differed > spec.disagreement * trial.compared:
        return f"it gave another class than the stable version for {trial.differed} of {trial.compared} images"
    if trial.answers < spec.min_requests:
        return None
    failing = trial.failed / trial.answers
    usual = stable.failed / stable.answers if stable.answers else 0.0
    if failing > usual + spec.failure_excess:
        return f"it failed on {trial.failed} of {trial.answers} images, the stable version on {usual:.2%}"
    if stable.answers < spec.min_requests:
        return None
    took, takes = trial.seconds / trial.answers, stable.seconds / stable.answers
    if took > spec.slowdown * takes and took > takes + SLACK_S:
        return f"it took {1000 * took:.3g} ms for an image, the stable version {1000 * takes:.3g} ms"
    return None
