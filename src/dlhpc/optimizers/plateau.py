"""Reduce on plateau: the learning rate as a function of the evaluations so far, a pure state machine."""

from __future__ import annotations

import math

from dlhpc.spec.base import Spec
from dlhpc.spec.schedule import ReduceOnPlateauSchedule


class Plateau(Spec):
    """All that the decisions depend on. It is saved with a checkpoint, and equal on every process."""

    scale: float = 1.0
    """Factor on the learning rate, of all reductions so far."""
    best: float | None = None
    """The best value so far; None before the first that is finite."""
    bad: int = 0
    """Evaluations in a row without improvement."""
    cooldown: int = 0
    """Evaluations still to come in which nothing counts as bad."""


def update(schedule: ReduceOnPlateauSchedule, state: Plateau, value: float) -> Plateau:
    """The state after an evaluation that gave this value of what the schedule monitors.

    The decisions are those of PyTorch's ReduceLROnPlateau (threshold_mode "rel", eps 0). A value that is not finite is
    no improvement; in the cooldown an evaluation may set the best but is never bad.
    """
    better = _is_better(schedule, value, state.best)
    bad = 0 if better or state.cooldown > 0 else state.bad + 1
    after = Plateau(
        scale=state.scale, best=value if better else state.best, bad=bad, cooldown=max(0, state.cooldown - 1)
    )
    if bad <= schedule.patience:
        return after
    scale = max(state.scale * schedule.factor, schedule.min_scale)
    return after.model_copy(update={"scale": scale, "bad": 0, "cooldown": schedule.cooldown})


def _is_better(schedule: ReduceOnPlateauSchedule, value: float, best: float | None) -> bool:
    if not math.isfinite(value):
        return False
    if best is None:
        return True
    if schedule.monitor == "loss":
        return value < best * (1.0 - schedule.threshold)
    return value > best * (1.0 + schedule.threshold)
