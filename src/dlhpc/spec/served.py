"""The models of a server: which version answers, which are on trial, and when a trial has failed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dlhpc.spec.base import PositiveFloat, PositiveInt, Ratio, Spec

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class CanarySpec(Spec):
    """A second version of a model that answers a part of its requests."""

    ref: str
    """Which version: `name`, `name:3`, `name@alias` or `sha256:...`."""

    weight: Share = 0.05
    """Share of the requests that it answers; a request may also choose, by the header `x-canary: always` or `never`."""

    by: Literal["request", "key"] = "request"
    """What a request is chosen by: the hash of its id, or of its API key's, so that a client stays with one version."""


class ShadowSpec(Spec):
    """A version that is asked again what was answered, after the answer, and only counted."""

    ref: str
    """Which version: `name`, `name:3`, `name@alias` or `sha256:...`."""

    share: Ratio = 1.0
    """Share of the images that it is given."""

    max_pending: PositiveInt = 32
    """Most images that wait for it in each replica; what is more is left out."""


class RollbackSpec(Spec):
    """When a canary or a shadow is taken off trial, judged by the supervisor at each look (`watch_s`)."""

    enabled: bool = True
    """Whether it ever is."""

    window_s: PositiveFloat = 60.0
    """Seconds that are judged by."""

    min_requests: PositiveInt = 50
    """Fewest images in the window to be judged by."""

    failure_excess: Ratio = 0.05
    """How much larger the share of failed images may be than the stable version's."""

    slowdown: Annotated[float, Field(gt=1.0)] = 2.0
    """How many times longer an image may take on average than with the stable version, when it is 5 ms longer."""

    disagreement: Ratio = 0.2
    """Share of a shadow's images for which its most probable class may be another than the stable version's."""


class ServedModelSpec(Spec):
    """One of several models of a server."""

    ref: str
    """Which version answers: `name`, `name:3`, `name@alias` or `sha256:...`."""

    canary: CanarySpec | None = None
    """A second version that answers a part of the requests; none when null."""

    shadow: ShadowSpec | None = None
    """A version that is asked again what was answered; none when null."""
