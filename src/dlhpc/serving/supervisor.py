"""The supervisor: brings a cluster up, watches it, and takes it down without dropping a request."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from types import FrameType
from typing import Any, Final, Protocol

from dlhpc.errors import Interrupted, ServingError
from dlhpc.serving.control import Control, Replicas, every
from dlhpc.serving.health import Phase, Snapshot, health
from dlhpc.spec.serving import ServingSpec
from dlhpc.spec.wire import HealthReply

START_POLL_S: Final = 0.2
DRAIN_POLL_S: Final = 0.05
LOOK_TIMEOUT_S: Final = 2.0
"""A replica that has not told its state by then counts as gone."""


class Cluster(Replicas, Protocol):
    """The processes that answer."""

    def start(self) -> Iterator[None]:
        """Bring them up, a step at a time: a stop is heeded between the steps."""
        ...

    def is_up(self) -> bool:
        """Whether all replicas answer through the public port. Raises when they never will."""
        ...

    def drain(self, timeout_s: float) -> None:
        """Let every replica refuse new predictions."""
        ...

    def stop(self) -> None:
        """End every process, and what a start left half done."""
        ...


class Stop:
    """The wish to stop. The first signal is a wish; the second, while that is being granted, an order."""

    def __init__(self) -> None:
        self._event = threading.Event()

    @property
    def is_wanted(self) -> bool:
        """Whether somebody asked."""
        return self._event.is_set()

    def ask(self) -> None:
        """Wish to stop."""
        self._event.set()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until somebody asks, or for so long; gives whether somebody did."""
        return self._event.wait(timeout_s)

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Take SIGTERM and SIGINT (Ctrl-C) as wishes. Only the main thread may."""

        def ask(number: int, frame: FrameType | None) -> None:
            if self.is_wanted:
                raise Interrupted("stopped at once: what was in flight is lost")
            self.ask()

        before: dict[int, Any] = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class Supervisor:
    """Runs one cluster through its life: starting, serving, draining."""

    def __init__(
        self,
        cluster: Cluster,
        control: Control,
        spec: ServingSpec,
        say: Callable[[str], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = cluster
        self._control = control
        self._spec = spec
        self._say = say
        self._now = now
        self._began = now()
        self.phase: Phase = "starting"

    async def look(self, with_metrics: bool) -> tuple[HealthReply, Sequence[Snapshot]]:
        """The health now, and the replicas' snapshots. Called from the exporter's thread."""
        snapshots: Sequence[Snapshot] = ()
        if self.phase != "starting":
            snapshots = await asyncio.to_thread(
                self._cluster.snapshots, with_metrics=with_metrics, timeout_s=LOOK_TIMEOUT_S
            )
        state = health(self.phase, snapshots, self._now() - self._began, self._spec, self._control.faults)
        return state, snapshots

    def run(self, stop: Stop, ready: Callable[[], None]) -> None:
        """Serve until `stop`; `ready` is called once, when predictions are answered.

        Raises ServingError when the start fails or takes too long, or when the drain's time was not enough.
        """
        try:
            if not self._came_up(stop):
                self._say("stopped before the server was ready")
                return
            self.phase = "serving"
            with every(self._spec.watch_s, self._control.step) if self._spec.watch_s else nullcontext():
                ready()
                stop.wait()
            self.phase = "draining"
            self._drain()
        finally:
            self._cluster.stop()

    def _came_up(self, stop: Stop) -> bool:
        """Start the cluster and wait for it; False when it is no longer wanted."""
        end = self._began + self._spec.start_timeout_s
        for _ in self._cluster.start():
            if stop.is_wanted:
                return False
        while not stop.is_wanted:
            if self._cluster.is_up():
                return True
            if self._now() > end:
                raise ServingError(
                    f"the server was not ready after {self._spec.start_timeout_s:g} s: give it longer with "
                    "--set start_timeout_s=<seconds>, or look into the logs with --set ray_dir=<folder>"
                )
            stop.wait(START_POLL_S)
        return False

    def _drain(self) -> None:
        """Wait until nothing is in flight."""
        self._say("draining: new predictions are refused, those in flight complete")
        end = self._now() + self._spec.drain_timeout_s
        self._cluster.drain(LOOK_TIMEOUT_S)
        while True:
            snapshots = self._cluster.snapshots(with_metrics=False, timeout_s=LOOK_TIMEOUT_S)
            left = sum(each.in_flight for each in snapshots)
            if not all(each.is_draining for each in snapshots):  # it was being started when the others were told
                self._cluster.drain(LOOK_TIMEOUT_S)
            elif not left:
                self._say("drained: nothing is in flight any more")
                return
            if self._now() > end:
                raise ServingError(
                    f"{left} predictions were still in flight after {self._spec.drain_timeout_s:g} s "
                    "(drain_timeout_s) and are lost"
                )
            time.sleep(DRAIN_POLL_S)
