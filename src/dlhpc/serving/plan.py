"""The plan: which version answers for each model. The supervisor makes it, every replica follows it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from dlhpc.files import write_atomic
from dlhpc.spec.wire import ModelInfo

PLAN_FILE: Final = "plan.json"
"""Where a server's plan stands in its folder."""

Role = Literal["stable", "canary", "shadow"]
"""What a version is for."""


class Place(NamedTuple):
    """Where a version stands in a plan."""

    model: str
    role: Role

    def __str__(self) -> str:
        return self.model if self.role == "stable" else f"{self.model}'s {self.role}"


class _Planned(BaseModel):
    model_config = ConfigDict(frozen=True)


class Canary(_Planned):
    """A version that answers a part of a model's requests."""

    info: ModelInfo
    weight: float
    """Share of the requests."""
    by: Literal["request", "key"] = "request"
    """What the choice depends on: each request's id, or the API key that it came with."""


class Shadow(_Planned):
    """A version that is asked what the stable one has answered."""

    info: ModelInfo
    share: float
    """Share of the images."""
    max_pending: int
    """Most images that wait for it; more are left out."""


class PlannedModel(_Planned):
    """One model of the server, by the name that requests call it."""

    name: str
    """What stands in `/models/NAME/predict`."""
    stable: ModelInfo
    """The version that answers."""
    canary: Canary | None = None
    shadow: Shadow | None = None
    rolled_back: dict[str, str] = {}
    """Digest -> why it is neither a canary nor a shadow any more."""

    @property
    def infos(self) -> dict[Role, ModelInfo]:
        """Every version that is needed, by what it is for."""
        infos: dict[Role, ModelInfo] = {"stable": self.stable}
        if self.canary is not None:
            infos["canary"] = self.canary.info
        if self.shadow is not None:
            infos["shadow"] = self.shadow.info
        return infos

    @property
    def versions(self) -> Iterator[ModelInfo]:
        """Every version that is needed."""
        yield from self.infos.values()

    def is_on_trial(self, role: Role) -> bool:
        """Whether there is a canary, or a shadow, that is another version than the stable one and not rolled back."""
        info = self.infos.get(role)
        return info is not None and info.digest != self.stable.digest and info.digest not in self.rolled_back

    @property
    def weight(self) -> float:
        """Share of the requests that the canary answers now."""
        return self.canary.weight if self.canary is not None and self.is_on_trial("canary") else 0.0


class Plan(_Planned):
    """What is served from some moment on. The first model is the default."""

    epoch: int
    """Number of the plan: a later one has a higher number."""
    models: tuple[PlannedModel, ...]

    @property
    def versions(self) -> dict[str, ModelInfo]:
        """Every version that is needed, once, by its key; those of the default first."""
        return {key_of(info): info for model in self.models for info in model.versions}

    def model(self, name: str | None) -> PlannedModel | None:
        """The model of a name, or the default; None when there is none of that name."""
        if name is None:
            return self.models[0]
        return next((model for model in self.models if model.name == name), None)

    def at(self, place: Place) -> ModelInfo:
        """The version at a place of this plan."""
        model = self.model(place.model)
        assert model is not None
        return model.infos[place.role]

    def moved(self, place: Place, info: ModelInfo) -> Plan:
        """The next plan: the same but for one version."""
        model = self.model(place.model)
        assert model is not None
        trial = {"stable": None, "canary": model.canary, "shadow": model.shadow}[place.role]
        return self._next(place.model, place.role, info if trial is None else trial.model_copy(update={"info": info}))

    def rolled_back(self, name: str, digest: str, reason: str) -> Plan:
        """The next plan: the same, but a version of a model is on trial no more."""
        model = self.model(name)
        assert model is not None
        return self._next(name, "rolled_back", model.rolled_back | {digest: reason})

    def _next(self, name: str, field: str, value: object) -> Plan:
        models = (model.model_copy(update={field: value}) if model.name == name else model for model in self.models)
        return Plan(epoch=self.epoch + 1, models=tuple(models))


@dataclass(frozen=True)
class Prepared:
    """A replica's answer to the demand to be ready for a plan."""

    replica: str
    fault: str | None
    """Why it is not."""


def write_plan(folder: Path, plan: Plan) -> None:
    """Write a plan down, as a whole or not at all: replicas that start later begin with it."""
    write_atomic(folder / PLAN_FILE, plan.model_dump_json())


def read_plan(folder: Path) -> Plan:
    """The plan that was written down last."""
    return Plan.model_validate_json((folder / PLAN_FILE).read_bytes())


def key_of(info: ModelInfo) -> str:
    """What tells versions apart: the same bytes under two names answer with two names, and in two formats with two
    numbers."""
    return f"{info.name} {info.digest} {info.precision}"


def plan_of(info: ModelInfo, name: str | None = None) -> Plan:
    """The first plan of a server with one version; its model is called as in the registry unless `name` says how."""
    return Plan(epoch=1, models=(PlannedModel(name=name or registry_name(info), stable=info),))


def registry_name(info: ModelInfo) -> str:
    """The name under which the registry has a version."""
    return info.name.partition(":")[0]
