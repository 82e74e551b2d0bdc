"""The plan: which version answers for each model. The supervisor makes it, every replica follows it."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict

from dlhpc.spec.wire import ModelInfo


class PlannedModel(BaseModel):
    """One model of the server, by the name that requests call it."""

    model_config = ConfigDict(frozen=True)

    name: str
    """What stands in `/models/NAME/predict`."""
    stable: ModelInfo
    """The version that answers."""

    @property
    def versions(self) -> Iterator[ModelInfo]:
        """Every version that is needed."""
        yield self.stable


class Plan(BaseModel):
    """What is served from some moment on. The first model is the default."""

    model_config = ConfigDict(frozen=True)

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
