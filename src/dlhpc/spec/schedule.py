"""How the learning rate changes over a run. Every schedule can start with a warm-up; all are factors on the peak."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dlhpc.spec.base import Fraction, NonNegativeInt, Spec

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class _Warmed(Spec):
    warmup: Share = 0.0
    """Share of all steps spent rising to the peak."""


class _Decaying(_Warmed):
    final_scale: Share = 0.0
    """Learning rate at the end, as a factor of training.learning_rate."""


class ConstantSchedule(_Warmed):
    """The learning rate stays as it is."""

    name: Literal["constant"] = "constant"


class LinearSchedule(_Decaying):
    """A straight line down to the end of the run."""

    name: Literal["linear"] = "linear"


class CosineSchedule(_Decaying):
    """Half a cosine down (Loshchilov & Hutter 2017, arXiv:1608.03983, equation 5, without restarts)."""

    name: Literal["cosine"] = "cosine"


class WarmupCosineSchedule(_Decaying):
    """As cosine, with a warm-up unless told otherwise."""

    name: Literal["warmup_cosine"] = "warmup_cosine"
    warmup: Share = 0.05
    """Share of all steps spent rising to the peak."""


class PolynomialSchedule(_Decaying):
    """A power of the remaining share of the run (the "poly" policy: DeepLab, arXiv:1606.00915; LARS, 1708.03888)."""

    name: Literal["polynomial"] = "polynomial"
    power: Annotated[float, Field(gt=0.0, le=100.0)] = 2.0
    """1 is a straight line; above 1 falls early and ends gently, below 1 falls late."""


class OneCycleSchedule(_Warmed):
    """One half cosine up, one down to almost nothing (Smith & Topin 2017, arXiv:1708.07120; cosines as in fastai)."""

    name: Literal["one_cycle"] = "one_cycle"
    warmup: Share = 0.3
    """Share of all steps spent rising to the peak, here along a cosine."""
    div_factor: Annotated[float, Field(ge=1.0)] = 25.0
    """The run starts with training.learning_rate divided by this."""
    final_div_factor: Annotated[float, Field(ge=1.0)] = 10000.0
    """The run ends with its starting learning rate divided by this."""


class WSDSchedule(_Decaying):
    """Warm-up, stable, decay: the peak is held until a short decay (arXiv:2404.06395, arXiv:2405.18392)."""

    name: Literal["wsd"] = "wsd"
    warmup: Share = 0.05
    """Share of all steps spent rising to the peak."""
    decay: Share = 0.2
    """Share of all steps, at the end, spent falling."""
    shape: Literal["sqrt", "linear"] = "sqrt"
    """Of the decay: one minus the square root of its progress, or a straight line."""

    @model_validator(mode="after")
    def _fits_the_run(self) -> Self:
        if self.warmup + self.decay > 1.0:
            raise ValueError(
                f"warmup {self.warmup:g} and decay {self.decay:g} came, together more than the whole run: "
                "expected a sum of at most 1"
            )
        return self


class ReduceOnPlateauSchedule(_Warmed):
    """The learning rate falls whenever evaluations on the validation part stop getting better."""

    name: Literal["reduce_on_plateau"] = "reduce_on_plateau"
    monitor: Literal["loss", "accuracy"] = "loss"
    """What should get better on the validation part."""
    factor: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    """Each reduction multiplies the learning rate by this."""
    patience: NonNegativeInt = 2
    """Evaluations in a row without improvement that are borne; one more reduces."""
    cooldown: NonNegativeInt = 0
    """Evaluations after a reduction in which nothing counts as bad."""
    threshold: Fraction = 1e-4
    """Relative change from which on a value counts as better than the best so far."""
    min_scale: Share = 0.0
    """Lowest learning rate, as a factor of training.learning_rate."""


Schedule = Annotated[
    ConstantSchedule
    | LinearSchedule
    | CosineSchedule
    | WarmupCosineSchedule
    | PolynomialSchedule
    | OneCycleSchedule
    | WSDSchedule
    | ReduceOnPlateauSchedule,
    Field(discriminator="name"),
]
