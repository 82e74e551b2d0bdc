"""Which optimizer, with which constants. The learning rate lives in `training.learning_rate` alone."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dlhpc.spec.base import Fraction, NonNegativeFloat, PositiveFloat, Spec


class ParameterGroup(Spec):
    """Scales the learning rate of the parameters that a pattern matches."""

    match: str
    """Shell pattern over canonical parameter names, such as `head/*`; the first group that matches counts."""

    learning_rate_scale: NonNegativeFloat = 1.0
    """Factor on training.learning_rate; 0 freezes the parameters."""


class _Optimizer(Spec):
    weight_decay: NonNegativeFloat = 0.01
    """Decoupled decay, scaled by the learning rate; never applied to biases and norms."""

    groups: tuple[ParameterGroup, ...] = ()
    """Learning-rate scales for parts of the model."""


class AdamWSpec(_Optimizer):
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101)."""

    name: Literal["adamw"] = "adamw"
    b1: Fraction = 0.9
    """Decay of the first moment."""
    b2: Fraction = 0.999
    """Decay of the second moment."""
    eps: PositiveFloat = 1e-8
    """Added to the root of the second moment."""


class LionSpec(_Optimizer):
    """Lion (Chen et al. 2023, arXiv:2302.06675, algorithm 2); wants a 3-10 times smaller learning rate than AdamW."""

    name: Literal["lion"] = "lion"
    b1: Fraction = 0.9
    """Interpolation between momentum and gradient for the step."""
    b2: Fraction = 0.99
    """Decay of the momentum."""


OptimizerSpec = Annotated[AdamWSpec | LionSpec, Field(discriminator="name")]
