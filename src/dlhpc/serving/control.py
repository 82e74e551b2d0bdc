"""The control loop: lets the replicas follow what references stand for.

It runs in the supervisor, off every request's path, and remembers nothing that it could not find out again: the plan is
in a file, and each replica tells which one it follows. A version is verified here, then prepared by every replica
beside what it serves, and only when all have it does the plan change. What fails before that changes nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, Protocol

from dlhpc.errors import DlhpcError
from dlhpc.monitoring.control_metrics import ControlMetrics
from dlhpc.serving.evidence import Recent
from dlhpc.serving.health import Snapshot
from dlhpc.serving.plan import Place, Plan, Prepared
from dlhpc.serving.rollback import verdict
from dlhpc.spec.served import RollbackSpec
from dlhpc.spec.wire import ModelInfo

ANSWER_S: Final = 5.0
"""Longest that a replica may take to tell how it is, or to follow a plan that it has prepared."""
AGAIN_S: Final = 60.0
"""What was refused is tried again after so long, since it may have been mended, or at once when the reference moves."""
_log = logging.getLogger(__name__)


class Replicas(Protocol):
    """The replicas, as the control loop needs them."""

    def snapshots(self, *, with_metrics: bool, timeout_s: float) -> Sequence[Snapshot]:
        """What each replica that answers in time tells. Never raises."""
        ...

    def prepare(self, plan: Plan, timeout_s: float) -> Sequence[Prepared]:
        """Let every replica load what a plan needs; gives their answers. Never raises."""
        ...

    def commit(self, plan: Plan, timeout_s: float) -> None:
        """Let every replica follow a plan that it has prepared. Never raises."""
        ...


class Versions(Protocol):
    """The registry, as the control loop needs it."""

    def digest(self, ref: str) -> str:
        """The digest (`sha256:...`) that a reference stands for now."""
        ...

    def verified(self, ref: str) -> ModelInfo:
        """The version that a reference stands for now, looked at as closely as the server wants it."""
        ...


class Control:
    """Follows references, a step at a time."""

    def __init__(
        self,
        replicas: Replicas,
        versions: Versions,
        plan: Plan,
        refs: Mapping[Place, str],
        *,
        keep: Callable[[Plan], None],
        say: Callable[[str], None],
        rollback: RollbackSpec,
        load_timeout_s: float,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`refs` are the references that can move, by their place in the plan; `keep` writes a plan down, so that
        replicas which start later begin with it."""
        self.plan = plan
        self.metrics = ControlMetrics()
        self._replicas = replicas
        self._versions = versions
        self._refs = refs
        self._keep = keep
        self._say = say
        self._rollback = rollback
        self._recent = Recent(rollback.window_s)
        self._load_timeout_s = load_timeout_s
        self._now = now
        self._faults: dict[Place | None, str] = {}
        self._refused: dict[Place, tuple[str, float]] = {}

    @property
    def faults(self) -> tuple[str, ...]:
        """What could not be followed, and still cannot; what was rolled back, as long as it is referred to."""
        off_trial = (
            f"{Place(model.name, role)} {info.name} was rolled back: {model.rolled_back[info.digest]}"
            for model in self.plan.models
            for role, info in model.infos.items()
            if role != "stable" and info.digest in model.rolled_back
        )
        return (*self._faults.values(), *off_trial)

    def step(self) -> None:
        """Look at everything once. Never raises for what others do wrong."""
        for place, ref in self._refs.items():
            self._follow(place, ref)
        snapshots = self._replicas.snapshots(with_metrics=False, timeout_s=ANSWER_S)
        self._bring_up_to_date(snapshots)
        if self._rollback.enabled:
            self._judge(snapshots)
        self.metrics.faulty({place.model for place in self._faults if place is not None})
        self.metrics.weigh(
            (model.name, model.canary.info.digest, model.weight) for model in self.plan.models if model.canary
        )

    def _follow(self, place: Place, ref: str) -> None:
        try:
            digest = self._versions.digest(ref)
        except (DlhpcError, OSError) as error:  # what was refused may be mended by the time it can be read again
            self._refused.pop(place, None)
            self._fault(place, f"{ref}: {error}")
            return
        if digest == self.plan.at(place).digest:
            self._refused.pop(place, None)
            self._mended(place)
            return
        refused, since = self._refused.get(place, ("", 0.0))
        if digest == refused and self._now() < since + AGAIN_S:
            return
        fault = self._change(place, ref)
        if fault is None:
            self._refused.pop(place, None)
            self._mended(place)
            return
        if digest != refused:
            self.metrics.refused(place.model)
        self._refused[place] = digest, self._now()
        self._fault(place, f"{ref}: {fault}")

    def _change(self, place: Place, ref: str) -> str | None:
        """Serve what a reference stands for now; gives what stood in the way."""
        before = self.plan.at(place)
        try:
            info = self._versions.verified(ref)
        except (DlhpcError, OSError) as error:
            return str(error)
        plan = self.plan.moved(place, info)
        fault = self._prepared(plan)
        if fault is not None:
            self._replicas.prepare(self.plan, ANSWER_S)  # those who could load it need it no more
            return fault
        self._commit(plan)
        self.metrics.changed(place.model)
        self._say(f"{place}: {info.name} ({info.digest[:19]}...) answers in place of {before.name}")
        return None

    def _prepared(self, plan: Plan) -> str | None:
        """Let every replica prepare a plan; gives why one could not."""
        answers = self._replicas.prepare(plan, self._load_timeout_s)
        if not answers:
            return "no replica answers"
        return next((answer.fault for answer in answers if answer.fault is not None), None)

    def _commit(self, plan: Plan) -> None:
        self._keep(plan)
        self.plan = plan
        self._replicas.commit(plan, ANSWER_S)

    def _judge(self, snapshots: Sequence[Snapshot]) -> None:
        """Take versions off trial that have failed it."""
        told = ((each.replica, digest, counts) for each in snapshots for digest, counts in each.counts)
        self._recent.add(self._now(), told)
        broken = {lane.digest for each in snapshots for lane in each.lanes if lane.breaker == "open"}
        for model in self.plan.models:
            on_trial = {info.digest: info for role, info in model.infos.items() if model.is_on_trial(role)}
            for digest, info in on_trial.items():
                trial, stable = self._recent.of(digest), self._recent.of(model.stable.digest)
                reason = verdict(trial, stable, self._rollback, is_broken=digest in broken)
                if reason is not None:
                    self._commit(self.plan.rolled_back(model.name, digest, reason))
                    self.metrics.rolled_back(model.name, digest)
                    self._say(f"{model.name}: {info.name} ({digest[:19]}...) is rolled back: {reason}")

    def _bring_up_to_date(self, snapshots: Sequence[Snapshot]) -> None:
        """Whoever follows another plan was started, or out of reach, while the plan changed."""
        if all(each.epoch == self.plan.epoch for each in snapshots):
            self._mended(None)
            return
        fault = self._prepared(self.plan)
        if fault is not None:
            self._fault(None, f"a replica cannot follow plan {self.plan.epoch}: {fault}")
        self._replicas.commit(self.plan, ANSWER_S)

    def _fault(self, place: Place | None, text: str) -> None:
        if self._faults.get(place) != text:
            self._faults[place] = text
            self._say(f"{text}; what was served before answers on")

    def _mended(self, place: Place | None) -> None:
        self._faults.pop(place, None)


@contextmanager
def every(seconds: float, step: Callable[[], None]) -> Iterator[None]:
    """Call `step` again and again on a thread of its own, with so many seconds between; what it raises is logged."""
    is_over = threading.Event()

    def run() -> None:
        while not is_over.wait(seconds):
            try:
                step()
            except Exception:
                _log.exception("a step of the control loop failed; there will be another")

    thread = threading.Thread(target=run, name="control", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join(1.0)  # what it waits for of the replicas ends with them
