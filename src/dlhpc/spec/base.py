"""What all specs share: frozen, closed, strict about numbers, and with a digest."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field


class Spec(BaseModel):
    """An immutable description. Unknown keys, NaN and infinities are refused; attribute docstrings are the help."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        validate_default=True,
        ser_json_inf_nan="strings",
    )

    def canonical(self) -> dict[str, Any]:
        """The spec as JSON values, every default written out."""
        return self.model_dump(mode="json")

    @property
    def digest(self) -> str:
        """sha256 (hex) of the canonical JSON: equal specs, and only they, have equal digests."""
        return hashlib.sha256(canonical_json(self.canonical())).hexdigest()


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys, no spaces and no NaN: one byte string for one value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode()


MAX_INT = 2**31 - 1
"""Larger counts are slips of the keyboard, and would overflow somewhere later."""
NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,127}$"
NETWORK_FORMAT = "ip-network"
"""What JSON Schema is told of an IP network or address."""

LICENCE_PATTERN = r"^[A-Za-z0-9(][A-Za-z0-9.+:() -]{0,199}$"

PositiveInt = Annotated[int, Field(ge=1, le=MAX_INT, strict=True)]
NonNegativeInt = Annotated[int, Field(ge=0, le=MAX_INT, strict=True)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
PositiveFloat = Annotated[float, Field(gt=0.0)]
NonNegativeFloat = Annotated[float, Field(ge=0.0)]
Ratio = Annotated[float, Field(gt=0.0, le=1.0)]
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
