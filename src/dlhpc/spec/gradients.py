"""What is done to gradients between the backward pass and the optimizer."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dlhpc.spec.base import PositiveFloat, Spec


class NoClipping(Spec):
    """Gradients stay as long as they are."""

    name: Literal["none"] = "none"


class GlobalNormClipping(Spec):
    """Scale all gradients so that their joint norm stays within a bound (Pascanu et al. 2013, arXiv:1211.5063)."""

    name: Literal["global_norm"] = "global_norm"
    max_norm: PositiveFloat = 1.0
    """Largest norm over all gradients together."""


class AdaptiveClipping(Spec):
    """Bound each unit's gradient by its weights' norm (AGC: Brock et al. 2021, arXiv:2102.06171, equation 3)."""

    name: Literal["adaptive"] = "adaptive"
    factor: PositiveFloat = 0.01
    """Largest ratio of a unit's gradient norm to its weight norm."""
    eps: PositiveFloat = 1e-3
    """Least weight norm, so that zero weights can move."""
    exempt: tuple[str, ...] = ("head/*",)
    """Shell patterns over canonical parameter names that are left alone; the paper exempts the last layer."""


Clipping = Annotated[NoClipping | GlobalNormClipping | AdaptiveClipping, Field(discriminator="name")]

NonFinitePolicy = Literal["raise", "skip", "zero"]
