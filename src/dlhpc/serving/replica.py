"""A replica: one process's model behind guards, as an ASGI application. Knows nothing of what carries it."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from dlhpc.monitoring.metrics import ReplicaMetrics
from dlhpc.serving.api_keys import KeyFile
from dlhpc.serving.app import App
from dlhpc.serving.batching import Batcher
from dlhpc.serving.exchange import Guard, guarded
from dlhpc.serving.guards.admission import Admission
from dlhpc.serving.guards.auth import authenticate
from dlhpc.serving.guards.deadline import deadline
from dlhpc.serving.guards.rate_limit import RateLimits, rate_limit
from dlhpc.serving.health import Snapshot, health, health_routes
from dlhpc.serving.predict import Predict
from dlhpc.serving.slots import Slot
from dlhpc.spec.serving import AuthSpec, ServingSpec
from dlhpc.spec.wire import HealthReply

READERS = 2
"""Threads that decode large images; Pillow lets go of the interpreter lock while it does."""


class Replica:
    """Answers with one slot. `app` is the ASGI application."""

    def __init__(self, slot: Slot, spec: ServingSpec, replica_id: str, *, in_ray: bool = False) -> None:
        self._slot = slot
        self._id = replica_id
        self._started = time.monotonic()
        self._metrics = ReplicaMetrics()
        self._metrics.serves(slot.info.name, slot.info.digest, slot.info.backend, slot.info.verification)
        self._admission = Admission(spec.limits.max_concurrent)
        self._model_thread = ThreadPoolExecutor(1, "model")
        self._readers = ThreadPoolExecutor(READERS, "read")
        batcher = Batcher(
            slot.predictor,
            self._model_thread,
            max_batch_size=spec.batching.max_batch_size,
            max_wait_s=spec.batching.max_wait_ms / 1000,
            observe=self._metrics.computed,
        )
        predict = guarded(Predict(slot, batcher, self._readers, spec.limits), self._guards(spec))
        self.app = App(
            {"/predict": {"POST": predict}, **health_routes(self._health)},
            self._metrics.answered,
            in_ray=in_ray,
        )

    def _guards(self, spec: ServingSpec) -> list[Guard]:
        """What the spec switches on, in the spec's order."""
        makers: dict[str, Callable[[], Guard]] = {
            "auth": lambda: self._authentication(spec.auth),
            "admission": self._admission.guard,
            "deadline": lambda: deadline(spec.limits.deadline_s),
            "rate_limits": lambda: rate_limit(
                RateLimits(spec.rate_limits, spec.replicas, self._metrics.rate_limited), spec.trusted_proxies
            ),
        }
        return [makers[name]() for name in spec.guards]

    def _authentication(self, spec: AuthSpec) -> Guard:
        assert spec.keys is not None
        file = KeyFile(spec.keys, time.monotonic())
        return authenticate(file, "predict", self._metrics.denied, is_open=spec.open_predict)

    def snapshot(self, *, with_metrics: bool = True) -> Snapshot:
        """Counts, and metrics where they are wanted, as they are now."""
        self._metrics.in_flight.set(self._admission.in_flight)
        return Snapshot(
            replica=self._id,
            model=self._slot.info,
            in_flight=self._admission.in_flight,
            is_full=self._admission.is_full,
            is_draining=self._admission.is_closed,
            families=self._metrics.families() if with_metrics else (),
        )

    def drain(self) -> None:
        """Admit no more predictions; those in flight complete."""
        self._admission.close()

    async def _health(self) -> HealthReply:
        return health("serving", [self.snapshot(with_metrics=False)], time.monotonic() - self._started)
