"""Which optimizer, with which constants. The learning rate lives in `training.learning_rate` alone."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dlhpc.spec.base import Fraction, NonNegativeFloat, PositiveFloat, PositiveInt, Spec


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


class AdanSpec(_Optimizer):
    """Adan (Xie et al. 2022, arXiv:2208.06677, algorithm 1): Nesterov momentum from differences of gradients.

    Takes 2-10 times AdamW's learning rate. The three decays keep a share of the past: each is 1 minus the paper's beta.
    """

    name: Literal["adan"] = "adan"
    b1: Fraction = 0.98
    """Decay of the gradient's average."""
    b2: Fraction = 0.92
    """Decay of the average of the gradients' differences."""
    b3: Fraction = 0.99
    """Decay of the average square of gradient plus b2 times difference."""
    eps: PositiveFloat = 1e-8
    """Added to the root of the average square."""
    weight_decay: NonNegativeFloat = 0.02
    """Decoupled decay, scaled by the learning rate; never applied to biases and norms."""
    decay: Literal["prox", "no_prox"] = "prox"
    """`prox` (the paper) divides the result by 1 + lr x decay, `no_prox` shrinks it first by 1 - lr x decay."""


class AdaBeliefSpec(_Optimizer):
    """AdaBelief (Zhuang et al. 2020, arXiv:2010.07468, algorithm 2), with decoupled decay: small steps where gradients
    deviate from their average."""

    name: Literal["adabelief"] = "adabelief"
    b1: Fraction = 0.9
    """Decay of the gradient's average."""
    b2: Fraction = 0.999
    """Decay of the average squared deviation from it."""
    eps: PositiveFloat = 1e-8
    """Added to the average at every step, where it accumulates, and to its root; 1e-16 for transformers and GANs."""
    rectify: bool = False
    """Scale the step by RAdam's rectification (Liu et al. 2020, arXiv:1908.03265); no step while it is undefined."""

    @model_validator(mode="after")
    def _rectification_exists(self) -> Self:
        if self.rectify and self.b2 <= 0.6:
            raise ValueError(
                f"rectify with b2 {self.b2}: it is never defined, and nothing moves, unless b2 is above 0.6"
            )
        return self


class SophiaSpec(_Optimizer):
    """Sophia (Liu et al. 2023, arXiv:2305.14342, algorithm 3): momentum over a diagonal Hessian, clipped by element."""

    name: Literal["sophia"] = "sophia"
    b1: Fraction = 0.96
    """Decay of the gradient's average."""
    b2: Fraction = 0.99
    """Decay of the Hessian estimates' average."""
    eps: PositiveFloat = 1e-12
    """Least denominator."""
    estimator: Literal["gnb", "hutchinson"] = "gnb"
    """Diagonal Hessian: `gnb`, Gauss-Newton-Bartlett (a backward pass on sampled labels), or `hutchinson` (a
    Hessian-vector product, twice the cost)."""
    interval: PositiveInt = 10
    """Steps between estimates, the paper's k."""
    gamma: PositiveFloat | None = None
    """Factor on the Hessian: larger means more clipping-free, smaller steps; 0.05 for gnb, 0.01 for hutchinson."""

    @property
    def curvature_scale(self) -> float:
        """gamma, or the paper's choice for the estimator."""
        return self.gamma if self.gamma is not None else {"gnb": 0.05, "hutchinson": 0.01}[self.estimator]


OptimizerSpec = Annotated[AdamWSpec | LionSpec | AdanSpec | AdaBeliefSpec | SophiaSpec, Field(discriminator="name")]
