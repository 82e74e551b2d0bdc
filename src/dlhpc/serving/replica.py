"""A replica: one process's model behind guards, as an ASGI application. Knows nothing of what carries it."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from dlhpc.monitoring.metrics import ReplicaMetrics
from dlhpc.serving.api_keys import KeyFile
from dlhpc.serving.app import App
from dlhpc.serving.batching import Batcher
from dlhpc.serving.exchange import Guard, guarded
from dlhpc.serving.guards.admission import Admission
from dlhpc.serving.guards.auth import authenticate
from dlhpc.serving.guards.breaker import Breaker, broken
from dlhpc.serving.guards.cache import Replies, cached
from dlhpc.serving.guards.deadline import deadline
from dlhpc.serving.guards.queue import Pace, queue
from dlhpc.serving.guards.rate_limit import RateLimits, rate_limit
from dlhpc.serving.health import Snapshot, health, health_routes
from dlhpc.serving.predict import Predict
from dlhpc.serving.slots import Slot
from dlhpc.spec.serving import AuthSpec, LimitsSpec, ServingSpec
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
        self._guards = self._metrics.guards
        self._admission = Admission(
            spec.limits.max_concurrent,
            spec.limits.low_priority_share,
            self._guards.shed,
            max_bytes=spec.limits.max_buffered_bytes,
        )
        self._replies = Replies(spec.cache.max_bytes, self._guards.cache_evicted)
        self._pace = Pace(spec.batching.max_batch_size)
        self._breaker = Breaker(slot.info.name, spec.breaker, partial(self._guards.breaker_became, slot.info.digest))
        self._guards.breaker_is(slot.info.digest, self._breaker.state)
        self._model_thread = ThreadPoolExecutor(1, "model")
        self._readers = ThreadPoolExecutor(READERS, "read")
        self._batcher = Batcher(
            slot.predictor,
            self._model_thread,
            max_batch_size=spec.batching.max_batch_size,
            max_wait_s=spec.batching.max_wait_ms / 1000,
            observe=self._metrics.computed,
            passed=self._passed,
            pass_s=self._pace.pass_s if "queue" in spec.guards else lambda size: 0.0,
        )
        predict = Predict(slot, self._batcher, self._readers, spec.limits)
        guarded_predict = guarded(predict, self._guard_list(spec, predict))
        self.app = App(
            {"/predict": {"POST": guarded_predict}, **health_routes(self._health)},
            self._metrics.answered,
            in_ray=in_ray,
        )

    def _guard_list(self, spec: ServingSpec, predict: Predict) -> list[Guard]:
        """What the spec switches on, in the spec's order."""
        makers: dict[str, Callable[[], Guard]] = {
            "auth": lambda: self._authentication(spec.auth),
            "admission": self._admission.guard,
            "deadline": lambda: self._deadline(spec.limits),
            "rate_limits": lambda: rate_limit(
                RateLimits(spec.rate_limits, spec.replicas, self._guards.rate_limited), spec.trusted_proxies
            ),
            "cache": lambda: cached(
                self._replies,
                self._slot.info.digest,
                predict.body,
                self._readers,
                self._guards.cache_asked,
                is_shared=spec.cache.shared,
            ),
            "breaker": lambda: broken(self._breaker),
            "queue": lambda: queue(self._expected_s, lambda: self._guards.shed("hopeless")),
        }
        return [makers[name]() for name in spec.guards]

    def _authentication(self, spec: AuthSpec) -> Guard:
        assert spec.keys is not None
        file = KeyFile(spec.keys, time.monotonic())
        return authenticate(file, "predict", self._guards.denied, is_open=spec.open_predict)

    def _deadline(self, spec: LimitsSpec) -> Guard:
        assert spec.deadline_s is not None
        return deadline(spec.deadline_s)

    def _expected_s(self) -> float:
        """Seconds until a request that comes now would be answered."""
        return self._pace.expected(self._batcher.waiting, self._batcher.running(time.monotonic()))

    def _passed(self, size: int, seconds: float) -> None:
        self._pace.passed(size, seconds)
        self._breaker.passed(seconds, time.monotonic())

    def snapshot(self, *, with_metrics: bool = True) -> Snapshot:
        """Counts, and metrics where they are wanted, as they are now."""
        self._metrics.in_flight.set(self._admission.in_flight)
        self._guards.cache_holds(len(self._replies), self._replies.currsize)
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
