"""The control loop, with replicas and a registry in memory and a clock of the test's own."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dlhpc.errors import IntegrityError, NotFoundError
from dlhpc.serving.control import AGAIN_S, Control, every
from dlhpc.serving.evidence import Counts
from dlhpc.serving.health import Snapshot
from dlhpc.serving.plan import Canary, Plan, PlannedModel, plan_of, read_plan, write_plan
from dlhpc.spec.served import RollbackSpec
from dlhpc.spec.wire import LaneHealth
from tests.serving.asgi import INFO
from tests.serving.cluster import STABLE, Fleet, Shelf, version


@dataclass
class Scene:
    """A server of `m`, which follows the alias m@production."""

    folder: Path
    shelf: Shelf = field(default_factory=lambda: Shelf({"m@production": version(1)}))
    fleet: Fleet = field(default_factory=Fleet)
    said: list[str] = field(default_factory=list)
    time: float = 1000.0

    def __post_init__(self) -> None:
        write_plan(self.folder, plan_of(version(1)))
        self.control = self.begin()

    def begin(self) -> Control:
        """A control loop that knows what a new one would: what is written down."""
        return Control(
            self.fleet,
            self.shelf,
            read_plan(self.folder),
            {STABLE: "m@production"},
            keep=self.keep,
            say=self.said.append,
            rollback=RollbackSpec(min_requests=10),
            load_timeout_s=60.0,
            now=lambda: self.time,
        )

    def keep(self, plan: Plan) -> None:
        self.fleet.happened.append(("keep", plan.epoch))
        write_plan(self.folder, plan)

    def step(self) -> list[tuple[str, int]]:
        """What one step asks of the replicas."""
        self.fleet.happened.clear()
        self.control.step()
        return list(self.fleet.happened)

    def metrics(self) -> dict[str, float]:
        return {sample.name: sample.value for family in self.control.metrics.families() for sample in family.samples}


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_nothing_moves_and_nothing_is_asked(scene: Scene) -> None:
    assert scene.step() == []
    assert scene.said == []


def test_when_an_alias_moves_all_prepare_before_any_follows(scene: Scene) -> None:
    scene.shelf.refs["m@production"] = version(2)
    assert scene.step() == [("prepare", 2), ("keep", 2), ("commit", 2)]
    assert scene.fleet.epochs == {"r1": 2, "r2": 2}
    assert read_plan(scene.folder).models[0].stable == version(2)
    assert scene.said == [f"m: m:2 ({version(2).digest[:19]}...) answers in place of m:1"]
    assert scene.metrics()["dlhpc_model_changes_total"] == 1
    assert scene.step() == []


def test_there_and_back_again(scene: Scene) -> None:
    for epoch, number in enumerate((2, 1, 2, 1), start=2):
        scene.shelf.refs["m@production"] = version(number)
        assert scene.step() == [("prepare", epoch), ("keep", epoch), ("commit", epoch)]
    assert read_plan(scene.folder).models[0].stable == version(1)


def test_a_version_that_one_replica_cannot_load_changes_nothing(scene: Scene) -> None:
    scene.shelf.refs["m@production"] = version(2)
    scene.fleet.faults["r2"] = "m:2: damaged"
    assert scene.step() == [("prepare", 2), ("prepare", 1)]  # the second lets those go that could load it
    assert scene.control.faults == ("m@production: m:2: damaged",)
    assert scene.metrics()["dlhpc_model_fault"] == scene.metrics()["dlhpc_model_changes_refused_total"] == 1
    for _ in range(3):
        assert scene.step() == []
    assert scene.said == ["m@production: m:2: damaged; what was served before answers on"]


def test_what_was_refused_is_tried_again_when_the_alias_moves(scene: Scene) -> None:
    scene.shelf.refs["m@production"] = version(2)
    scene.fleet.faults["r2"] = "m:2: damaged"
    scene.step()
    scene.fleet.faults.clear()
    scene.shelf.refs["m@production"] = version(3)
    assert scene.step() == [("prepare", 2), ("keep", 2), ("commit", 2)]
    assert scene.control.faults == ()
    assert "dlhpc_model_fault" not in scene.metrics()


def test_what_was_refused_and_then_mended_is_tried_again_after_a_while(scene: Scene) -> None:
    scene.shelf.refs["m@production"] = version(2)
    scene.shelf.damaged[version(2).digest] = IntegrityError("weights: damaged")
    assert scene.step() == []
    scene.shelf.damaged.clear()
    scene.time += AGAIN_S - 1
    assert scene.step() == []
    scene.time += 1
    assert scene.step() == [("prepare", 2), ("keep", 2), ("commit", 2)]


def test_a_registry_that_is_gone_is_told_once_and_followed_when_it_is_back(scene: Scene) -> None:
    scene.shelf.refs["m@production"] = NotFoundError("no registry")
    for _ in range(3):
        assert scene.step() == []
    assert scene.said == ["m@production: no registry; what was served before answers on"]
    assert scene.control.faults == ("m@production: no registry",)
    scene.shelf.refs["m@production"] = version(1)
    scene.step()
    assert scene.control.faults == ()


def test_a_version_refused_while_the_registry_went_away_is_tried_when_it_is_back(scene: Scene) -> None:
    scene.shelf.refs["m@production"] = version(2)
    scene.shelf.damaged[version(2).digest] = OSError("the network is down")
    assert scene.step() == []
    scene.shelf.refs["m@production"] = OSError("the network is down")
    scene.step()
    scene.shelf.refs["m@production"] = version(2)
    scene.shelf.damaged.clear()
    assert scene.step() == [("prepare", 2), ("keep", 2), ("commit", 2)]


def test_without_a_replica_nothing_is_changed(scene: Scene) -> None:
    scene.fleet.epochs.clear()
    scene.shelf.refs["m@production"] = version(2)
    scene.step()
    assert scene.control.faults == ("m@production: no replica answers",)


def test_a_replica_that_missed_a_change_is_brought_up_to_date(scene: Scene) -> None:
    scene.fleet.deaf.add("r2")
    scene.shelf.refs["m@production"] = version(2)
    scene.step()
    assert scene.fleet.epochs == {"r1": 2, "r2": 2} or scene.fleet.epochs["r2"] == 1
    scene.fleet.deaf.clear()
    scene.fleet.epochs["r3"] = 1  # started while the plan changed
    assert scene.step() == [("prepare", 2), ("commit", 2)]
    assert set(scene.fleet.epochs.values()) == {2}
    assert scene.step() == []


def test_a_replica_that_cannot_be_brought_up_to_date_is_told_of(scene: Scene) -> None:
    scene.shelf.refs["m@production"] = version(2)
    scene.step()
    scene.fleet.epochs["r3"] = 1
    scene.fleet.faults["r3"] = "m:2: no memory"
    scene.fleet.deaf.add("r3")
    scene.step()
    assert scene.control.faults == ("a replica cannot follow plan 2: m:2: no memory",)
    del scene.fleet.epochs["r3"]
    scene.step()
    assert scene.control.faults == ()


def test_a_new_control_loop_goes_on_where_the_other_ended(scene: Scene) -> None:
    scene.shelf.refs["m@production"] = version(2)
    scene.step()
    scene.control = scene.begin()
    assert scene.step() == []
    scene.shelf.refs["m@production"] = version(1)
    assert scene.step() == [("prepare", 3), ("keep", 3), ("commit", 3)]


@pytest.fixture
def trial(tmp_path: Path) -> Scene:
    """A scene in which m:2 is the canary."""
    scene = Scene(tmp_path)
    canary = Canary(info=version(2), weight=0.25)
    write_plan(tmp_path, Plan(epoch=1, models=(PlannedModel(name="m", stable=version(1), canary=canary),)))
    scene.control = scene.begin()
    return scene


def told(scene: Scene, stable: Counts, canary: Counts, breaker: str = "closed") -> None:
    """Let each replica tell these counts, and the state of the canary's breaker."""
    lane = LaneHealth(model="m:2", digest=version(2).digest, in_flight=0, queued=0, breaker=breaker)
    counts = (version(1).digest, stable), (version(2).digest, canary)
    scene.fleet.snapshot = lambda name, epoch: Snapshot(name, (INFO,), epoch, counts, 0, False, False, (), 1, (lane,))


def test_a_canary_that_fails_is_rolled_back_once_and_for_all(trial: Scene) -> None:
    told(trial, Counts(), Counts())
    assert trial.step() == []
    assert trial.metrics()["dlhpc_canary_weight"] == 0.25
    told(trial, Counts(answers=30), Counts(answers=4, failed=4))  # in each of two replicas: 8 are too few
    assert trial.step() == []
    told(trial, Counts(answers=30), Counts(answers=5, failed=5))
    assert trial.step() == [("keep", 2), ("commit", 2)]
    reason = "it failed on 10 of 10 images, the stable version on 0.00%"
    assert trial.control.faults == (f"m's canary m:2 was rolled back: {reason}",)
    assert trial.said == [f"m: m:2 ({version(2).digest[:19]}...) is rolled back: {reason}"]
    assert read_plan(trial.folder).models[0].weight == 0.0
    trial.step()
    assert trial.metrics()["dlhpc_canary_weight"] == 0.0
    assert trial.metrics()["dlhpc_rollbacks_total"] == 1
    assert len(trial.said) == 1


def test_a_canary_whose_breaker_opens_is_rolled_back(trial: Scene) -> None:
    told(trial, Counts(), Counts(), breaker="open")
    assert trial.step() == [("keep", 2), ("commit", 2)]


def test_what_is_long_past_is_not_judged(trial: Scene) -> None:
    told(trial, Counts(), Counts())
    trial.step()
    told(trial, Counts(answers=5), Counts(answers=4, failed=4))
    for _ in range(3):
        trial.step()
        trial.time += 60.0
    told(trial, Counts(answers=10), Counts(answers=8, failed=5))  # 8 more, of which 2 failed: too few to judge
    assert trial.step() == []


def test_a_canary_is_not_rolled_back_when_the_spec_says_never(trial: Scene) -> None:
    trial.control._rollback = RollbackSpec(enabled=False)
    told(trial, Counts(), Counts(), breaker="open")
    assert trial.step() == []


def test_a_step_that_fails_is_followed_by_another() -> None:
    done = threading.Event()
    steps = iter([lambda: 1 / 0, done.set])

    def step() -> None:
        next(steps, lambda: None)()

    with every(0.001, step):
        assert done.wait(60)
