"""A cluster and a registry in memory, for what the supervisor does with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from dlhpc.errors import NotFoundError
from dlhpc.serving.control import Control
from dlhpc.serving.health import Snapshot
from dlhpc.serving.plan import Place, Plan, Prepared, plan_of
from dlhpc.spec.served import RollbackSpec
from dlhpc.spec.wire import ModelInfo
from tests.serving.asgi import INFO

STABLE = Place("m", "stable")


def version(number: int, name: str = "m") -> ModelInfo:
    """A version: `m:2` has a digest of twos."""
    return INFO.model_copy(update={"name": f"{name}:{number}", "digest": f"sha256:{str(number) * 64}"})


@dataclass
class Shelf:
    """A registry: what references stand for, and digests that cannot be loaded."""

    refs: dict[str, ModelInfo | Exception] = field(default_factory=dict)
    damaged: dict[str, Exception] = field(default_factory=dict)

    def digest(self, ref: str) -> str:
        found = self.refs.get(ref, NotFoundError("there is no registry"))
        if isinstance(found, Exception):
            raise found
        return found.digest

    def verified(self, ref: str) -> ModelInfo:
        digest = self.digest(ref)
        if digest in self.damaged:
            raise self.damaged[digest]
        found = self.refs[ref]
        assert isinstance(found, ModelInfo)
        return found


class Double:
    """Does as it is told and has no replica."""

    def snapshots(self, *, with_metrics: bool, timeout_s: float) -> Sequence[Snapshot]:
        return []

    def prepare(self, plan: Plan, timeout_s: float) -> Sequence[Prepared]:
        return []

    def commit(self, plan: Plan, timeout_s: float) -> None:
        return None


@dataclass
class Fleet(Double):
    """Replicas that follow plans. `happened` tells what was asked of them."""

    epochs: dict[str, int] = field(default_factory=lambda: {"r1": 1, "r2": 1})
    """Replica -> the plan that it follows."""
    faults: dict[str, str] = field(default_factory=dict)
    """Replica -> why it cannot prepare another version than the first."""
    deaf: set[str] = field(default_factory=set)
    """Replicas that do not hear of commits."""
    happened: list[tuple[str, int]] = field(default_factory=list)
    snapshot: Callable[[str, int], Snapshot] = lambda name, epoch: Snapshot(
        name, (INFO,), epoch, (), 0, False, False, (), 1, ()
    )

    def snapshots(self, *, with_metrics: bool, timeout_s: float) -> Sequence[Snapshot]:
        return [self.snapshot(name, epoch) for name, epoch in self.epochs.items()]

    def prepare(self, plan: Plan, timeout_s: float) -> Sequence[Prepared]:
        self.happened.append(("prepare", plan.epoch))
        return [Prepared(name, self.faults.get(name) if plan.epoch > 1 else None) for name in self.epochs]

    def commit(self, plan: Plan, timeout_s: float) -> None:
        self.happened.append(("commit", plan.epoch))
        self.epochs = {name: epoch if name in self.deaf else plan.epoch for name, epoch in self.epochs.items()}


def control_of(replicas: Double) -> Control:
    """A control loop over them that follows the alias `m`, which stands for nothing."""
    return Control(
        replicas,
        Shelf(),
        plan_of(INFO),
        {STABLE: "m"},
        keep=lambda plan: None,
        say=lambda text: None,
        rollback=RollbackSpec(),
        load_timeout_s=60.0,
    )
