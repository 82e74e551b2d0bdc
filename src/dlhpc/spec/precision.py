"""In which number formats a model answers."""

from __future__ import annotations

from typing import Final, Literal

ComputePrecision = Literal["float32", "bfloat16"]
"""What activations and products of a predictor are computed in."""
ServingPrecision = Literal["float32", "bfloat16", "int8"]
"""`int8` are weights of 8 bits, which compute in float32."""

MAX_DEVIATIONS: Final[dict[ServingPrecision, float]] = {"float32": 1e-3, "bfloat16": 0.05, "int8": 0.05}
"""How far answers may be from those that were stored with a version, over the largest of these."""


def computes_in(precision: ServingPrecision) -> ComputePrecision:
    """What activations are in."""
    return "bfloat16" if precision == "bfloat16" else "float32"
