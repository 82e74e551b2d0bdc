"""The models of a replica: a lane for every version of its plan, and the choice among them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dlhpc.serving.exchange import Handler, Refusal, Reply, Request
from dlhpc.serving.lanes import Lane, Surroundings
from dlhpc.serving.plan import Plan, PlannedModel, key_of
from dlhpc.serving.slots import Slot
from dlhpc.spec.wire import LaneHealth, ModelInfo

Load = Callable[[ModelInfo], Slot]
"""Loads a version and warms it up; blocks."""


class Models:
    """Follows a plan. All methods but the constructor are called on one event loop."""

    def __init__(self, plan: Plan, load: Load, around: Surroundings) -> None:
        """Load every version of the plan. Raises what `load` does."""
        self.plan = plan
        self._around = around
        self._lanes = {key: Lane(load(info), around) for key, info in plan.versions.items()}

    @property
    def infos(self) -> Sequence[ModelInfo]:
        """Every version that is served, that of the default first."""
        return tuple(self._lanes[key].info for key in self.plan.versions)

    def health(self) -> tuple[LaneHealth, ...]:
        """How each version is doing."""
        return tuple(lane.health() for lane in self._lanes.values())

    def lane(self, name: str | None = None, version: str | None = None) -> Lane:
        """The lane that answers for a model: the default one's without `name`.

        `version`, its number in the registry or its digest (`sha256:...`), chooses among those that are served.
        Raises Refusal: unknown_model.
        """
        model = self._model(name)
        if version is None:
            return self._lanes[key_of(model.stable)]
        for info in model.versions:
            if version in (info.digest, info.name.partition(":")[2]):
                return self._lanes[key_of(info)]
        served = ", ".join(info.name.partition(":")[2] or info.digest for info in model.versions)
        raise Refusal(
            "unknown_model", f"version {version[:80]!r} of {model.name!r} is not served here; there are: {served}"
        )

    def served(self, name: str) -> Sequence[ModelInfo]:
        """Every version of a model that is served. Raises Refusal: unknown_model."""
        return tuple(self._model(name).versions)

    def answer(self, protocol: str) -> Handler:
        """The handler of a protocol: the model is that of the path's `name` and `version`, where it has any."""

        async def answered(request: Request) -> Reply:
            lane = self.lane(request.parameters.get("name"), request.parameters.get("version"))
            return await lane.answer(protocol, request)

        return answered

    def _model(self, name: str | None) -> PlannedModel:
        model = self.plan.model(name)
        if model is None:
            served = ", ".join(each.name for each in self.plan.models)
            raise Refusal("unknown_model", f"model {(name or '')[:80]!r} is not served here; there are: {served}")
        return model
