"""A replica: one process's models behind guards, as an ASGI application. Knows nothing of what carries it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from dlhpc.monitoring.metrics import ReplicaMetrics
from dlhpc.serving.api_keys import KeyFile
from dlhpc.serving.app import App, problem_reply
from dlhpc.serving.documents import document_routes
from dlhpc.serving.exchange import Guard, guarded
from dlhpc.serving.guards.admission import Admission
from dlhpc.serving.guards.auth import authenticate
from dlhpc.serving.guards.buckets import BucketId, Loan, Report
from dlhpc.serving.guards.cache import Replies
from dlhpc.serving.guards.deadline import deadline
from dlhpc.serving.guards.rate_limit import Limiter, RateLimits, rate_limit
from dlhpc.serving.guards.redis_rates import RedisRates, redis_script
from dlhpc.serving.health import Snapshot, health, health_routes
from dlhpc.serving.lanes import Answers, Surroundings
from dlhpc.serving.models import Models
from dlhpc.serving.oip import Infer, oip_error, oip_routes, speaks_oip
from dlhpc.serving.plan import Plan, Prepared
from dlhpc.serving.predict import Predict
from dlhpc.serving.residence import Load
from dlhpc.spec.serving import AuthSpec, LimitsSpec, ServingSpec
from dlhpc.spec.wire import HealthReply, ModelInfo

READERS = 2
"""Threads that decode large images; Pillow lets go of the interpreter lock while it does."""


class Replica:
    """Answers by a plan. `app` is the ASGI application; `models` knows what is served."""

    def __init__(
        self, plan: Plan, load: Load, spec: ServingSpec, replica_id: str, *, behind_proxy: bool = False
    ) -> None:
        """Load the plan's versions. Raises what `load` does."""
        self._id = replica_id
        self._spec = spec
        self._started = time.monotonic()
        self._metrics = ReplicaMetrics()
        self._guards = self._metrics.guards
        self._admission = Admission(
            spec.limits.max_concurrent,
            spec.limits.low_priority_share,
            self._guards.shed,
            max_bytes=spec.limits.max_buffered_bytes,
        )
        self._replies = Replies(spec.cache.max_bytes, self._guards.cache_evicted)
        readers = ThreadPoolExecutor(READERS, "read")
        protocols: dict[str, Answers] = {
            "predict": lambda lane: Predict(lane.info, lane.batcher, readers, lane.rows, spec.limits),
            "oip": lambda lane: Infer(lane.info, lane.batcher, readers, lane.rows, spec.limits),
        }
        self.models = Models(plan, load, Surroundings(spec, self._metrics, self._replies, readers, protocols))
        lender = replica_id if spec.lends_rates else None
        self._rates = RateLimits(spec.rate_limits, spec.most_replicas, self._guards.rate_limited, lender)
        self._front = self._front_guards(spec)
        predict = guarded(self.models.answer("predict"), self._front)
        self.app = App(
            {
                "/predict": {"POST": predict},
                "/models/{name}/predict": {"POST": predict},
                **health_routes(self._health),
                **oip_routes(self.models, self._health, guarded(self.models.answer("oip"), self._front)),
                **document_routes(spec, self._default),
            },
            self._metrics.answered,
            refuse=lambda refusal, request: (oip_error if speaks_oip(request) else problem_reply)(refusal, request),
            behind_proxy=behind_proxy,
        )

    def _front_guards(self, spec: ServingSpec) -> list[Guard]:
        """The guards before the choice of a version that the spec switches on, in its order; a lane has the others."""
        makers: dict[str, Callable[[], Guard]] = {
            "auth": lambda: self._authentication(spec.auth),
            "admission": self._admission.guard,
            "deadline": lambda: self._deadline(spec.limits),
            "rate_limits": lambda: rate_limit(self._limiter(spec), spec.trusted_proxies),
        }
        return [makers[name]() for name in spec.guards if name in makers]

    def _limiter(self, spec: ServingSpec) -> Limiter:
        if spec.rate_limits.redis is None:
            return self._rates
        return RedisRates(spec.rate_limits, self._rates, redis_script(spec.rate_limits))

    def _authentication(self, spec: AuthSpec) -> Guard:
        assert spec.keys is not None
        file = KeyFile(spec.keys, time.monotonic())
        return authenticate(file, "predict", self._guards.denied, is_open=spec.open_predict)

    def _deadline(self, spec: LimitsSpec) -> Guard:
        assert spec.deadline_s is not None
        return deadline(spec.deadline_s)

    def _default(self) -> tuple[str, ModelInfo]:
        """The default model, and the version that answers for it."""
        model = self.models.plan.models[0]
        return model.name, model.stable

    def snapshot(self, *, with_metrics: bool = True) -> Snapshot:
        """Counts, and metrics where they are wanted, as they are now."""
        self._metrics.in_flight.set(self._admission.in_flight)
        self._metrics.serves((info.name, info.digest, info.backend, info.verification) for info in self.models.infos)
        self._metrics.weights.set(self.models.used_bytes)
        self._metrics.plan.set(self.models.plan.epoch)
        self._guards.cache_holds(len(self._replies), self._replies.currsize)
        return Snapshot(
            replica=self._id,
            models=tuple(self.models.infos),
            epoch=self.models.plan.epoch,
            counts=self.models.counts,
            in_flight=self._admission.in_flight,
            is_full=self._admission.is_full,
            is_draining=self._admission.is_closed,
            pid=os.getpid(),
            lanes=self.models.health(),
            families=self._metrics.families() if with_metrics else (),
        )

    async def prepare(self, plan: Plan) -> Prepared:
        """Load what a plan needs, beside what is being answered."""
        return Prepared(self._id, await self.models.prepare(plan))

    def exchange_rates(self, wanted: Sequence[BucketId], loans: Mapping[str, Sequence[Loan]]) -> Report:
        """Lend tokens of rate limits and borrow some: see RateLimits.exchange. `loans` are those of all replicas."""
        return self._rates.exchange(wanted, loans.get(self._id, ()), time.monotonic())

    def drain(self) -> None:
        """Admit no more predictions; those in flight complete."""
        self._admission.close()

    async def _health(self) -> HealthReply:
        uptime_s = time.monotonic() - self._started
        return health("serving", [self.snapshot(with_metrics=False)], uptime_s, self._spec)
