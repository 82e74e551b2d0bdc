"""How many replicas a server has, by how much there is to do."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from dlhpc.spec.base import NonNegativeFloat, PositiveFloat, PositiveInt, Spec


class AutoscalingSpec(Spec):
    """Replicas come and go with the number of requests that each works on."""

    min_replicas: PositiveInt = 1
    """Fewest replicas: so many when the server starts."""

    max_replicas: PositiveInt
    """Most replicas. A limit that holds over all replicas is divided by this number."""

    target_ongoing_requests: PositiveFloat = 16.0
    """Requests, those in queues included, that each replica should be working on: there are as many replicas as it
    takes."""

    look_back_s: PositiveFloat = 5.0
    """Seconds over which requests are averaged."""

    upscale_delay_s: NonNegativeFloat = 2.0
    """Seconds for which more replicas must have been needed before one is added."""

    downscale_delay_s: NonNegativeFloat = 60.0
    """Seconds for which fewer must have been enough before one is stopped; it answers what it has first."""

    @model_validator(mode="after")
    def _some_room(self) -> Self:
        if self.max_replicas < self.min_replicas:
            raise ValueError(
                f"max_replicas is {self.max_replicas} and min_replicas {self.min_replicas}: there is no number between"
            )
        return self
