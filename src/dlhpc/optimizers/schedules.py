"""Learning-rate schedules as plain functions of the step, shared by both frameworks."""

from __future__ import annotations

import math
from typing import assert_never

from dlhpc.spec.training import ConstantSchedule, Schedule, WarmupCosineSchedule


def scale(schedule: Schedule, step: int, total_steps: int) -> float:
    """Factor on the peak learning rate for the step with this number (from 0) of `total_steps`."""
    match schedule:
        case ConstantSchedule():
            return 1.0
        case WarmupCosineSchedule():
            warmup_steps = round(schedule.warmup * total_steps)
            if step < warmup_steps:
                return (step + 1) / warmup_steps
            progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
            cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
            return schedule.final_scale + (1.0 - schedule.final_scale) * cosine
        case _:
            assert_never(schedule)
