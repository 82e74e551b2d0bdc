"""How long, how fast and how carefully a model is trained."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dlhpc.spec.base import Fraction, NonNegativeInt, PositiveFloat, PositiveInt, Spec
from dlhpc.spec.gradients import Clipping, NoClipping, NonFinitePolicy
from dlhpc.spec.schedule import Schedule, WarmupCosineSchedule


class TrainingSpec(Spec):
    """The training loop's settings."""

    num_epochs: PositiveInt = 10
    """Passes over the training part."""

    batch_size: PositiveInt = 64
    """Examples per step, over all processes together."""

    learning_rate: PositiveFloat = 0.001
    """Peak learning rate; the schedule and the optimizer's groups scale it."""

    schedule: Schedule = WarmupCosineSchedule()
    """How the learning rate changes over the run."""

    label_smoothing: Fraction = 0.0
    """Share of each target spread evenly over all classes."""

    gradient_accumulation: PositiveInt = 1
    """Each step's batch is worked through in this many parts of equal size."""

    clipping: Clipping = NoClipping()
    """Bounds on the gradients of a step, taken over the whole batch."""

    non_finite_gradients: NonFinitePolicy = "raise"
    """A gradient with NaN or infinities: `raise` ends the run, `skip` leaves out the update, `zero` clears those
    elements; the history counts the steps."""

    ema_decay: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Average the weights over the steps with this decay (bias-corrected); the average is evaluated and published."""

    precision: Literal["float32", "bfloat16", "float64"] = "float32"
    """Number format of the forward and backward pass; weights and optimizer stay in float32 (float64 for float64)."""

    steps_per_dispatch: PositiveInt = 1
    """Steps handed to the device at once; part of the run, since other groupings round differently."""

    evaluate_every: PositiveInt = 1
    """Epochs between evaluations on the validation part; the best becomes the model."""

    checkpoint_every: PositiveInt = 1
    """Epochs between checkpoints to resume from."""

    log_every: PositiveInt = 50
    """Steps between lines of history; each costs one synchronisation with the device."""

    keep_checkpoints: NonNegativeInt = 1
    """Older resume points kept besides the last."""
