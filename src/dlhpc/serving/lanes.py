"""A lane: one version of a model in a replica, with a batcher, a thread and guards of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from dlhpc.monitoring.metrics import ReplicaMetrics
from dlhpc.serving.batching import Batcher, Pixels, Row
from dlhpc.serving.evidence import Tally, has_failed
from dlhpc.serving.exchange import Guard, Handler, Reply, Request, guarded
from dlhpc.serving.guards.breaker import Breaker, broken
from dlhpc.serving.guards.cache import Replies, cached
from dlhpc.serving.guards.client_address import client_of, networks
from dlhpc.serving.guards.queue import Pace, queue
from dlhpc.serving.plan import key_of
from dlhpc.serving.rows import Rows
from dlhpc.serving.slots import Slot
from dlhpc.spec.serving import ServingSpec
from dlhpc.spec.wire import LaneHealth, ModelInfo


class Answering(Protocol):
    """How a protocol answers with one version."""

    async def __call__(self, request: Request) -> Reply:
        """The reply; Refusal for what cannot be answered."""
        ...

    async def body(self, request: Request) -> bytes:
        """A request's body, when its type is right."""
        ...


Answers = Callable[["Lane"], Answering]
"""Makes the handler of a protocol for a lane."""
Bring = Callable[["Lane"], Awaitable[None]]
Copy = Callable[[Pixels, Row], None]
"""Given an image and what was answered."""


@dataclass(frozen=True)
class Surroundings:
    """What all lanes of a replica share."""

    spec: ServingSpec
    metrics: ReplicaMetrics
    replies: Replies
    readers: Executor
    """Threads that decode large images."""
    protocols: Mapping[str, Answers]


class Lane:
    """One loaded version, ready to answer in every protocol.

    What a version's requests share with no other version's is here: batches, pace, breaker, replies in the making.
    """

    def __init__(self, info: ModelInfo, around: Surroundings, bring: Bring) -> None:
        """`bring` has the version in memory again when it had to make room, or raises the Refusal of who asked."""
        self.info = info
        self.last_used = 0.0
        """When it was asked last, by the monotonic clock."""
        self._slot: Slot | None = None
        self._bring = bring
        self.in_flight = 0
        """Requests that are being answered here."""
        self.tally = Tally()
        self._ended: Callable[[], None] | None = None
        self.client_of = partial(client_of, trusted=networks(around.spec.trusted_proxies))
        self._around = around
        spec, metrics = around.spec, around.metrics
        self._thread = ThreadPoolExecutor(1, "model")
        self.pace = Pace(spec.batching.max_batch_size)
        self._breaker = Breaker(self.info.name, spec.breaker, partial(metrics.guards.breaker_became, self.info.digest))
        metrics.guards.breaker_is(self.info.digest, self._breaker.state)
        self.batcher = Batcher(
            self._predict,
            self._thread,
            max_batch_size=spec.batching.max_batch_size,
            max_wait_s=spec.batching.max_wait_ms / 1000,
            observe=metrics.computed,
            passed=self._passed,
            pass_s=self.pace.pass_s if "queue" in spec.guards else lambda size: 0.0,
        )
        self.rows = Rows(self.info.input_shape, self.batcher, around.readers, spec.limits, self.client_of)
        self._handlers = {name: self._guarded(answers(self)) for name, answers in around.protocols.items()}

    async def answer(self, protocol: str, request: Request) -> Reply:
        """A request's reply in one of the protocols. The lane is kept until it is there, whatever is served by then."""
        self.enter()
        try:
            return await self._handlers[protocol](request)
        finally:
            self.leave()

    def enter(self) -> None:
        """Keep the lane until `leave` is called."""
        self.in_flight += 1
        self.last_used = time.monotonic()

    def leave(self) -> None:
        """Let it go as far as this caller is concerned."""
        self.in_flight -= 1
        self._end()

    def watch(self, copy: Copy | None = None) -> None:
        """From now on count every image, and give what was answered to `copy`."""
        self.batcher.ended = partial(self._count, copy)

    def leave_alone(self) -> None:
        """Count no more: this version is not on trial, nor is one measured by it."""
        self.batcher.ended = None

    def _count(self, copy: Copy | None, pixels: Pixels, seconds: float, done: asyncio.Future[Row]) -> None:
        self.tally.ended(seconds, has_failed=has_failed(done))
        if copy is not None and not done.cancelled() and done.exception() is None:
            copy(pixels, done.result())

    def health(self) -> LaneHealth:
        """How it is doing now."""
        return LaneHealth(
            model=self.info.name,
            digest=self.info.digest,
            in_flight=self.in_flight,
            queued=self.batcher.waiting,
            breaker=self._breaker.state,
        )

    @property
    def slot(self) -> Slot | None:
        """The loaded version; None while it is not in memory."""
        return self._slot

    @slot.setter
    def slot(self, slot: Slot | None) -> None:
        self._slot = slot
        if slot is not None:  # which knows more of itself than could be known before
            self.info = slot.info

    async def bring(self) -> None:
        """Have the version in memory, for as long as something is in flight. Raises the Refusal of who asked."""
        if self._slot is None:
            await self._bring(self)

    def _present(self, answering: Answering) -> Handler:
        async def answered(request: Request) -> Reply:
            if self._slot is None:
                await answering.body(request)  # what takes long from here on is no fault of the client
                await self.bring()
            return await answering(request)

        return answered

    def _predict(self, images: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        slot = self._slot
        assert slot is not None  # what is in flight keeps it
        return slot.predictor(images)

    def retire(self, ended: Callable[[], None]) -> None:
        """Take nothing more; let go of the model when what is in flight is answered, and call `ended`."""
        self._ended = ended
        self._end()

    def _end(self) -> None:
        if self._ended is not None and not self.in_flight:
            ended, self._ended = self._ended, None
            self._thread.shutdown(wait=False)
            ended()

    def _guarded(self, answering: Answering) -> Handler:
        """A protocol's handler behind the guards that each version has of its own, in the spec's order."""
        around, guards = self._around, self._around.metrics.guards
        makers: dict[str, Callable[[], Guard]] = {
            "cache": lambda: cached(
                around.replies,
                key_of(self.info),
                answering.body,
                around.readers,
                guards.cache_asked,
                is_shared=around.spec.cache.shared,
            ),
            "breaker": lambda: broken(self._breaker),
            "queue": lambda: queue(self._expected_s, lambda: guards.shed("hopeless")),
        }
        handler = answering if around.spec.models_max_bytes is None else self._present(answering)
        return guarded(handler, [makers[name]() for name in around.spec.guards if name in makers])

    def _expected_s(self, request: Request) -> float:
        """Seconds until a request that comes now would be answered."""
        ahead = self.batcher.ahead(self.client_of(request))
        return self.pace.expected(ahead, self.batcher.running(time.monotonic()))

    def _passed(self, size: int, seconds: float) -> None:
        self.pace.passed(size, seconds)
        self._breaker.passed(seconds, time.monotonic())
