"""The models of a replica: a lane for every version of its plan, and the choice among them.

A plan takes effect at once and as a whole, between two steps of the event loop. A request keeps the lane that was
chosen for it, so that it is answered by one version from end to end, whatever the plan is by then.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from dlhpc.errors import DlhpcError, ServingError
from dlhpc.serving.canary import takes_canary
from dlhpc.serving.evidence import Counts
from dlhpc.serving.exchange import Handler, Refusal, Reply, Request
from dlhpc.serving.lanes import Lane, Surroundings
from dlhpc.serving.plan import Plan, PlannedModel, key_of
from dlhpc.serving.residence import Load, Residence
from dlhpc.serving.shadow import Copies
from dlhpc.spec.wire import LaneHealth, ModelInfo

_log = logging.getLogger(__name__)


class Route(NamedTuple):
    """Where requests for a model go."""

    model: PlannedModel
    stable: Lane
    canary: Lane | None


class Models:
    """Follows a plan. All methods but the constructor are called on one event loop."""

    def __init__(self, plan: Plan, load: Load, around: Surroundings) -> None:
        """Load the versions of the plan, as many as fit. Raises what `load` does."""
        self.plan = plan
        self._around = around
        self._max_bytes = around.spec.models_max_bytes
        self._residence = Residence(load, self._max_bytes, around.metrics.evicted)
        self._is_preparing = asyncio.Lock()
        self._prepared: dict[str, Lane] = {}
        fault = unfit(plan, self._max_bytes)
        if fault is not None:
            raise ServingError(fault)
        self._lanes = {key: self._lane(info) for key, info in plan.versions.items()}
        for lane in self._lanes.values():
            if self._residence.has_room(lane.info):
                self._residence.load_now(lane)
        self._routes = self._watch(plan)

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

    async def prepare(self, plan: Plan) -> str | None:
        """Load what a plan needs and is not there, beside what is being answered; gives why that was not possible.

        What was prepared for another plan is let go of.
        """
        fault = unfit(plan, self._max_bytes)
        if fault is not None:
            return fault
        async with self._is_preparing:
            wanted = plan.versions
            for key in self._prepared.keys() - wanted.keys():
                self._give_up(self._prepared.pop(key))
            for key in wanted.keys() - self._lanes.keys() - self._prepared.keys():
                lane = self._lane(wanted[key])
                lane.enter()  # it makes room for nobody until the plan is followed
                try:
                    await self._residence.bring(lane, self._answering_instead(plan, key))
                    self._prepared[key] = lane
                except DlhpcError as error:
                    return f"{wanted[key].name}: {error}"
                except Exception as error:
                    _log.exception("%s: cannot be loaded", wanted[key].name)
                    return f"{wanted[key].name}: {type(error).__name__}: {error}"
                finally:
                    if key not in self._prepared:
                        self._give_up(lane)
        return None

    def _answering_instead(self, plan: Plan, key: str) -> list[Lane]:
        """The lanes that answer now for the models in which a plan has a new version: these do not make room for it."""
        names = [model.name for model in plan.models if key in map(key_of, model.versions)]
        return [self._routes[name].stable for name in names if name in self._routes]

    def commit(self, plan: Plan) -> None:
        """Follow a later plan, which has been prepared; lanes that it does not need go when they are done.

        Raises ServingError when it was not prepared. An older plan, or the same, changes nothing.
        """
        if plan.epoch <= self.plan.epoch:
            return
        there = self._prepared | self._lanes
        missing = [info.name for key, info in plan.versions.items() if key not in there]
        if missing:
            raise ServingError(f"plan {plan.epoch} was not prepared: {', '.join(missing)} is not loaded")
        for lane in self._prepared.values():
            lane.leave()
        self._prepared = {}
        self._lanes = {key: there.pop(key) for key in plan.versions}
        self.plan = plan
        self._routes = self._watch(plan)
        for lane in there.values():
            self._let_go(lane)

    def _watch(self, plan: Plan) -> dict[str | None, Route]:
        """Where requests go by a plan, by the name in their path; what is on trial is counted from now on."""
        for lane in self._lanes.values():
            lane.leave_alone()
        routes: dict[str | None, Route] = {}
        for model in plan.models:
            lanes = {role: self._lanes[key_of(info)] for role, info in model.infos.items()}
            stable, copies = lanes["stable"], None
            if model.shadow is not None and model.is_on_trial("shadow"):
                copies = Copies(model.stable, lanes["shadow"], model.shadow, self._around.metrics.shadowed)
            on_trial = [lane for role, lane in lanes.items() if model.is_on_trial(role)]
            for lane in on_trial:
                lane.watch()
            if on_trial:
                stable.watch(copies)
            routes[model.name] = Route(model, stable, lanes.get("canary"))
        routes[None] = routes[plan.models[0].name]
        return routes

    @property
    def used_bytes(self) -> int:
        """Bytes of the weights in memory."""
        return self._residence.used_bytes

    @property
    def counts(self) -> tuple[tuple[str, Counts], ...]:
        """What each version has computed since it was loaded, by its digest."""
        return tuple((lane.info.digest, lane.tally.counts) for lane in self._lanes.values())

    def _lane(self, info: ModelInfo) -> Lane:
        return Lane(info, self._around, self._residence.serve)

    def _give_up(self, lane: Lane) -> None:
        """Let go of what was prepared in vain."""
        lane.leave()
        self._let_go(lane)

    def _let_go(self, lane: Lane) -> None:
        lane.retire(partial(self._gone, lane))

    def _gone(self, lane: Lane) -> None:
        """Free the memory of a version, and count it no more unless it has come back meanwhile."""
        info = lane.info
        self._residence.forget(lane)
        lanes = (*self._lanes.values(), *self._prepared.values())
        if not any(lane.info.digest == info.digest for lane in lanes):
            self._around.metrics.guards.breaker_is_gone(info.digest)

    def choose(self, request: Request) -> Lane:
        """The lane that answers a request: that of its path's `name` and `version`, where it has any, or the default
        one's; without a `version` possibly that of the canary."""
        version = request.parameters.get("version")
        if version is not None:
            return self.lane(request.parameters.get("name"), version)
        route = self._routes.get(request.parameters.get("name"))
        if route is None:
            raise self._unknown(request.parameters["name"])
        if route.canary is not None and takes_canary(route.model, request):
            return route.canary
        return route.stable

    def answer(self, protocol: str) -> Handler:
        """The handler of a protocol, with whichever lane is chosen for a request."""

        async def answered(request: Request) -> Reply:
            return await self.choose(request).answer(protocol, request)

        return answered

    def _model(self, name: str | None) -> PlannedModel:
        model = self.plan.model(name)
        if model is None:
            raise self._unknown(name or "")
        return model

    def _unknown(self, name: str) -> Refusal:
        served = ", ".join(each.name for each in self.plan.models)
        return Refusal("unknown_model", f"model {name[:80]!r} is not served here; there are: {served}")


def unfit(plan: Plan, max_bytes: int | None) -> str | None:
    """Why a plan cannot be followed by anybody who has so many bytes for weights; None when it can."""
    for info in plan.versions.values():
        if max_bytes is not None and info.weight_bytes > max_bytes:
            return f"{info.name} has weights of {info.weight_bytes} bytes, more than the {max_bytes} of models_max_gb"
    for model in plan.models:
        shadow = model.shadow
        if shadow is not None and shadow.info.input_shape != model.stable.input_shape:
            mine, its = list(model.stable.input_shape), list(shadow.info.input_shape)
            return f"{shadow.info.name} takes images of {its}, but the shadow of {model.stable.name} is given {mine}"
    return None
