"""Learning-rate schedules as plain functions of the step, shared by both frameworks.

Each is a factor in 0..1 on the peak, `training.learning_rate`. A warm-up of `w` steps is linear: step `i` (from 0) has
(i + 1) / w, so that none is wasted on a learning rate of zero. The schedule proper begins at step `w`, at the peak, and
would reach its end at step `total_steps`, one after the last. Only one_cycle rises in its own way, and reaches its end
in the last step.
"""

from __future__ import annotations

import math
from typing import assert_never

from dlhpc.spec.schedule import (
    ConstantSchedule,
    CosineSchedule,
    LinearSchedule,
    OneCycleSchedule,
    PolynomialSchedule,
    ReduceOnPlateauSchedule,
    Schedule,
    WarmupCosineSchedule,
    WSDSchedule,
)


def warmup_steps(schedule: Schedule, total_steps: int) -> int:
    """How many of the first steps rise to the peak."""
    return round(schedule.warmup * total_steps)


def scale(schedule: Schedule, step: int, total_steps: int) -> float:
    """Factor on the peak learning rate for the step with this number (from 0) of `total_steps`.

    Of reduce_on_plateau it gives the warm-up alone: the reductions depend on the evaluations (optimizers/plateau.py).
    """
    rising = warmup_steps(schedule, total_steps)
    if isinstance(schedule, OneCycleSchedule):
        return _one_cycle(schedule, step, rising, total_steps)
    if step < rising:
        return (step + 1) / rising
    progress = min(1.0, (step - rising) / max(1, total_steps - rising))
    match schedule:
        case WarmupCosineSchedule() | CosineSchedule():
            return _between(schedule.final_scale, _half_cosine(progress))
        case ConstantSchedule() | ReduceOnPlateauSchedule():
            return 1.0
        case LinearSchedule():
            return _between(schedule.final_scale, 1.0 - progress)
        case PolynomialSchedule():
            return _between(schedule.final_scale, (1.0 - progress) ** schedule.power)
        case WSDSchedule():
            return _stable_then_decay(schedule, step, rising, total_steps)
        case _:
            assert_never(schedule)


def _one_cycle(schedule: OneCycleSchedule, step: int, rising: int, total_steps: int) -> float:
    """From 1 / div_factor at step 0 to the peak at the last rising step, then down to the last step of the run.

    Equal to PyTorch's OneCycleLR where warmup * total_steps is an integer above 0; without rising steps, the run begins
    at the peak.
    """
    start = 1.0 / schedule.div_factor
    if step < rising:
        return _between(start, _half_cosine(1.0 - step / (rising - 1))) if rising > 1 else 1.0
    peak = max(0, rising - 1)
    progress = min(1.0, (step - peak) / max(1, total_steps - 1 - peak))
    return _between(start / schedule.final_div_factor, _half_cosine(progress))


def _stable_then_decay(schedule: WSDSchedule, step: int, rising: int, total_steps: int) -> float:
    """The peak, then 1 - sqrt(x) or 1 - x over the last steps (Hägele et al. 2024, arXiv:2405.18392, section 3)."""
    falling = min(round(schedule.decay * total_steps), total_steps - rising)
    progress = min(1.0, max(0.0, (step - (total_steps - falling)) / max(1, falling)))
    return _between(schedule.final_scale, 1.0 - (math.sqrt(progress) if schedule.shape == "sqrt" else progress))


def _half_cosine(progress: float) -> float:
    """From 1 down to 0."""
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def _between(low: float, share: float) -> float:
    """The value at this share of the way from `low` up to 1."""
    return low + (1.0 - low) * share
