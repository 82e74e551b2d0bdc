"""API keys as a server knows them: who holds one and what it admits to, never the key itself."""

from __future__ import annotations

from typing import Annotated, Final, Literal, get_args

from pydantic import AwareDatetime, Field

from dlhpc.spec.base import Name, Spec
from dlhpc.spec.rates import RateSpec

Scope = Literal["predict", "metrics", "admin", "feedback"]
Priority = Literal["normal", "low"]
SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)

Hex = Annotated[str, Field(pattern="^[0-9a-f]{16,64}$")]


class ApiKey(Spec):
    """One key, as its file holds it."""

    id: Annotated[str, Field(pattern="^[0-9a-f]{12}$")]
    """What the key itself begins with, so that it is found without trying all."""

    name: Name
    """Whose it is."""

    scopes: tuple[Scope, ...]
    """What it admits to."""

    priority: Priority = "normal"
    """Whether its requests are the first to be refused when the server is busy."""

    rate: RateSpec | None = None
    """How often it may be used, in place of rate_limits.per_client."""

    expires: AwareDatetime | None = None
    """When it ceases to be valid; never when null."""

    created: AwareDatetime
    """When it was made."""

    salt: Hex
    """Random bytes that go into the hash."""

    hash: Hex
    """HMAC-SHA256 of the key's secret part, under the salt."""


class ApiKeys(Spec):
    """The content of a file of keys."""

    keys: tuple[ApiKey, ...] = ()
    """Every key."""
