"""The supervisor's life, with a cluster that does what the test says."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import pytest

from dlhpc.errors import Interrupted, ServingError
from dlhpc.serving.health import Snapshot
from dlhpc.serving.supervisor import Stop, Supervisor
from dlhpc.spec.serving import ServingSpec
from tests.serving.asgi import INFO
from tests.serving.cluster import Double, control_of


def snapshot(in_flight: int = 0, *, is_draining: bool = False) -> Snapshot:
    return Snapshot("r1", (INFO,), 1, (), in_flight, False, is_draining, (), 1, ())


@dataclass
class Script(Double):
    """A cluster that is written out. `happened` tells what was asked of it."""

    steps: list[Callable[[], None]] = field(default_factory=list)
    ups: list[bool] = field(default_factory=lambda: [True])
    """What is_up gives; the last one for ever."""
    looks: list[list[Snapshot]] = field(default_factory=lambda: [[snapshot(is_draining=True)]])
    """What snapshots gives; the last one for ever."""
    happened: list[str] = field(default_factory=list)

    def start(self) -> Iterator[None]:
        self.happened.append("start")
        for step in self.steps:
            step()
            yield

    def is_up(self) -> bool:
        return self.ups.pop(0) if len(self.ups) > 1 else self.ups[0]

    def snapshots(self, *, with_metrics: bool, timeout_s: float) -> Sequence[Snapshot]:
        return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]

    def drain(self, timeout_s: float) -> None:
        self.happened.append("drain")

    def stop(self) -> None:
        self.happened.append("stop")


class Run:
    """One run of a supervisor over a script; the clock moves by a second with every look at it."""

    def __init__(self, script: Script, spec: ServingSpec = ServingSpec()) -> None:  # noqa: B008 - frozen
        self.script = script
        self.said: list[str] = []
        self.time = 0.0
        self.stop = Stop()
        self.phases: list[str] = []
        self.control = control_of(script)
        self.supervisor = Supervisor(script, self.control, spec, self.said.append, self.now)

    def now(self) -> float:
        self.time += 1.0
        return self.time

    def ready(self) -> None:
        self.script.happened.append("ready")
        self.phases.append(self.supervisor.phase)
        self.stop.ask()

    def __call__(self) -> list[str]:
        self.supervisor.run(self.stop, self.ready)
        return self.script.happened


def test_a_whole_life() -> None:
    run = Run(Script(ups=[False, False, True], looks=[[snapshot(2, is_draining=True)], [snapshot(is_draining=True)]]))
    assert run.supervisor.phase == "starting"
    assert run() == ["start", "ready", "drain", "stop"]
    assert run.phases == ["serving"]
    assert run.supervisor.phase == "draining"
    assert run.said[-1] == "drained: nothing is in flight any more"


def test_a_replica_that_was_started_meanwhile_is_told_too() -> None:
    run = Run(Script(looks=[[snapshot()], [snapshot(is_draining=True)]]))
    assert run() == ["start", "ready", "drain", "drain", "stop"]


def test_without_a_replica_there_is_nothing_to_wait_for() -> None:
    assert Run(Script(looks=[[]]))() == ["start", "ready", "drain", "stop"]


def test_the_drain_has_an_end_and_tells_what_is_lost() -> None:
    run = Run(Script(looks=[[snapshot(3, is_draining=True)]]), ServingSpec(drain_timeout_s=5.0))
    with pytest.raises(ServingError, match=r"3 predictions .* after 5 s \(drain_timeout_s\)"):
        run()
    assert run.script.happened[-1] == "stop"


def test_a_stop_before_ready_is_heeded_between_the_steps() -> None:
    script = Script()
    run = Run(script)
    script.steps = [lambda: None, run.stop.ask, lambda: script.happened.append("too far")]
    assert run() == ["start", "stop"]
    assert run.said == ["stopped before the server was ready"]


def test_a_stop_while_the_model_loads_is_heeded() -> None:
    script = Script(ups=[False])
    run = Run(script)
    script.steps = [lambda: None]
    script.is_up = lambda: bool(run.stop.ask())  # type: ignore[method-assign]
    assert run() == ["start", "stop"]


def test_the_start_has_an_end_and_says_what_to_change() -> None:
    run = Run(Script(ups=[False]), ServingSpec(start_timeout_s=2.0))
    with pytest.raises(ServingError, match=r"not ready after 2 s.*start_timeout_s"):
        run()
    assert run.script.happened == ["start", "stop"]


def test_when_the_start_fails_everything_is_taken_down() -> None:
    def fail() -> None:
        raise ServingError("no luck")

    run = Run(Script(steps=[fail]))
    with pytest.raises(ServingError, match="no luck"):
        run()
    assert run.script.happened == ["start", "stop"]


def test_health_is_looked_up_once_the_cluster_is_there() -> None:
    run = Run(Script(looks=[[snapshot(2)]]))
    state, snapshots = asyncio.run(run.supervisor.look(True))
    assert (state.status, state.in_flight, list(snapshots)) == ("starting", 0, [])
    run.supervisor.phase = "serving"
    state, snapshots = asyncio.run(run.supervisor.look(True))
    assert (state.status, state.in_flight, len(snapshots)) == ("ready", 2, 1)


def test_what_could_not_be_followed_is_told_with_the_health() -> None:
    run = Run(Script(looks=[[snapshot()]]))
    run.supervisor.phase = "serving"
    run.control.step()
    state, _ = asyncio.run(run.supervisor.look(False))
    assert (state.status, state.faults) == ("ready", ("m: there is no registry",))


@pytest.mark.parametrize(("watch_s", "steps"), [(0.001, True), (0, False), (None, False)])
def test_references_are_followed_while_serving_as_often_as_the_spec_says(watch_s: float | None, steps: bool) -> None:
    run = Run(Script(), ServingSpec(watch_s=watch_s))
    looked = threading.Event()
    run.control.step = looked.set  # type: ignore[method-assign]
    run.supervisor.run(run.stop, lambda: (looked.wait(60) if steps else None, run.stop.ask())[1])
    assert looked.is_set() is steps


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_a_wish_and_the_second_an_order(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    stop = Stop()
    with stop.on_signals():
        os.kill(os.getpid(), number)
        assert stop.wait(60.0)
        with pytest.raises(Interrupted, match="at once"):
            signal.raise_signal(number)
    assert signal.getsignal(number) is before
    assert stop.is_wanted
