"""When a version that is failing is left alone."""

from __future__ import annotations

from dlhpc.spec.base import PositiveFloat, PositiveInt, Ratio, Spec


class BreakerSpec(Spec):
    """When a version that keeps failing or has become slow is left alone for a while. Each replica has its own."""

    enabled: bool = True
    """Whether there is a breaker."""

    window_s: PositiveFloat = 30.0
    """Seconds that are judged by."""

    min_requests: PositiveInt = 20
    """Fewest predictions in the window to be judged by."""

    failure_ratio: Ratio = 0.5
    """Share of failed predictions that opens it."""

    slow_pass_s: PositiveFloat = 5.0
    """A forward pass that takes so long is slow."""

    min_passes: PositiveInt = 3
    """Fewest forward passes in the window to be judged by."""

    slow_ratio: Ratio = 0.8
    """Share of slow forward passes that opens it."""

    open_s: PositiveFloat = 5.0
    """Seconds for which it stays open: 503 with Retry-After."""

    probes: PositiveInt = 3
    """Predictions that may try afterwards, and must all succeed to close it."""
