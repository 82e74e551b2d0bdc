"""Where a request's CPU time goes, measured in this process with the objects of a real replica.

Stages that can be called on their own are (parse, decode, forward, encode); the queue is what the batcher takes beside
the forward pass; the guards are what a replica with all of them takes more than one with none; the application is the
rest of a replica. What the real server takes more than the replica in this process is network: HTTP, HAProxy, sockets,
Ray.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dlhpc.bench.contenders import ALL_GUARDS
from dlhpc.bench.requests import bodies
from dlhpc.data.decode import decode_image
from dlhpc.serving.api_keys import add_key, new_key
from dlhpc.serving.batching import Batcher
from dlhpc.serving.plan import plan_of
from dlhpc.serving.predict import Predict
from dlhpc.serving.replica import Replica
from dlhpc.serving.versions import load_slot, published
from dlhpc.spec.load import load_serving
from dlhpc.spec.serving import ServingSpec
from dlhpc.spec.wire import PredictRequest, decode_image_text

REQUESTS: Final = 200
"""In each round of each variant."""
ALL: Final = "all"
NONE: Final = "none"


@dataclass(frozen=True)
class StageResult:
    """One stage of a request to our server, at so many clients."""

    model: str
    clients: int
    stage: str
    cpu_us: float
    """CPU time per request in microseconds, on all threads and in all processes."""
    share: float
    """Of the request's whole CPU time."""


@dataclass(frozen=True)
class GuardResult:
    """What a guard costs: how much less a request takes with it switched off, at 32 clients."""

    model: str
    guard: str
    guard_cpu_us: float
    """CPU time per request in microseconds."""


class _Partly(ServingSpec):
    """A server without some of its guards: some of them cannot be switched off alone by settings."""

    left_out: frozenset[str] = frozenset()

    @property
    def guards(self) -> tuple[str, ...]:
        """Those that are left."""
        return tuple(name for name in super().guards if name not in self.left_out)


class Stages:
    """One model of a registry, as replicas in this process."""

    def __init__(self, model: str, registry: Path, size: tuple[int, int], folder: Path) -> None:
        secret, kept = new_key("stages", ["predict"], datetime.now(UTC))
        add_key(folder / "stages.json", kept)
        overrides = [f"registry={registry}", "model=bench", f"auth.keys={folder / 'stages.json'}", *ALL_GUARDS]
        self.spec = load_serving(None, overrides=overrides, environ={})
        self._model = model
        self._size = size
        self._headers = [(b"content-type", b"application/json"), (b"authorization", f"Bearer {secret}".encode())]
        self._info = published(self.spec)
        self._slot = load_slot(self.spec, self._info)
        self._next = 0

    def guards(self, rounds: int) -> list[GuardResult]:
        """What each guard costs, and all together."""
        names = self.spec.guards
        variants = {ALL: frozenset[str](), NONE: frozenset(names), **{name: frozenset({name}) for name in names}}
        apps = {name: self._app(left_out) for name, left_out in variants.items()}
        times: dict[str, list[float]] = {name: [] for name in apps}
        order = list(apps)
        for number in range(rounds + 1):
            order = [*order[1:], order[0]]  # whoever comes first finds other caches
            for name in order:
                taken = self._asked(apps[name], 32)
                if number:  # the first round warms up
                    times[name].append(taken)

        def saved(name: str) -> float:
            pairs = zip(times[ALL], times[name], strict=True)
            return round(statistics.median(whole - without for whole, without in pairs) * 1e6, 1)

        return [GuardResult(self._model, name, saved(name)) for name in names] + [
            GuardResult(self._model, "all of them", saved(NONE))
        ]

    def stages(self, clients: int, whole_cpu_s: float | None, rounds: int) -> list[StageResult]:
        """The stages at so many clients; `whole_cpu_s` is what a request takes of the real server, where known."""
        apps = {ALL: self._app(frozenset()), NONE: self._app(frozenset(self.spec.guards))}
        times: dict[str, list[float]] = {name: [] for name in (*apps, "batcher")}
        for number in range(rounds + 1):
            for name, app in apps.items():
                times[name].append(self._asked(app, clients))
            times["batcher"].append(self._batched(clients))
            if not number:
                for each in times.values():
                    each.clear()
        taken = {name: statistics.median(each) for name, each in times.items()}
        alone = self._alone(clients)
        found = {
            **alone,
            "queue": taken["batcher"] - alone["forward"],
            "guards": taken[ALL] - taken[NONE],
            "application": taken[NONE] - taken["batcher"] - alone["parse"] - alone["decode"] - alone["encode"],
        }
        if whole_cpu_s is not None:
            found = {"network": whole_cpu_s - taken[ALL], **found}
        order = ("network", "parse", "decode", "guards", "queue", "forward", "encode", "application")
        whole = sum(found.values())
        return [
            StageResult(self._model, clients, name, round(found[name] * 1e6, 1), round(found[name] / whole, 3))
            for name in order
            if name in found
        ]

    def _app(self, left_out: frozenset[str]) -> Any:
        spec = _Partly(**dict(self.spec), left_out=left_out)
        return Replica(plan_of(self._info), lambda info: self._slot, spec, "stages").app

    def _bodies(self, count: int) -> list[bytes]:
        """Bodies that were not sent yet."""
        self._next += count
        return bodies(self._next - count, count, self._size, repeated=False)

    def _asked(self, app: Any, clients: int) -> float:
        """CPU seconds per request of a replica that so many ask, each again when it was answered."""
        waiting = self._bodies(REQUESTS)

        async def client() -> None:
            while waiting:
                await self._ask(app, waiting.pop())

        return _per_request(lambda: asyncio.gather(*(client() for _ in range(clients))))

    async def _ask(self, app: Any, content: bytes) -> None:
        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": content, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            assert message.get("status", 200) == 200, message

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/predict",
            "headers": [*self._headers, (b"content-length", b"%d" % len(content))],
            "client": ("127.0.0.1", 1),
        }
        await asyncio.create_task(app(scope, receive, send))  # as servers do

    def _batched(self, clients: int) -> float:
        """CPU seconds per image of batcher and model alone."""
        image = np.zeros((*self._size, 1), np.uint8)
        left = [image] * REQUESTS

        async def run() -> None:
            with ThreadPoolExecutor(1) as thread:
                batching = self.spec.batching
                batcher = Batcher(
                    self._slot.predictor,
                    thread,
                    max_batch_size=batching.max_batch_size,
                    max_wait_s=batching.max_wait_ms / 1000,
                    observe=lambda size, seconds: None,
                )

                async def client() -> None:
                    while left:
                        await batcher.submit(left.pop())

                await asyncio.gather(*(client() for _ in range(clients)))

        return _per_request(run)

    def _alone(self, clients: int) -> dict[str, float]:
        """CPU seconds per request of what can be called on its own."""
        asked = self._bodies(REQUESTS)
        texts = [PredictRequest.model_validate_json(each).image for each in asked]
        files = [decode_image_text(text) for text in texts]
        batch = min(clients, self.spec.batching.max_batch_size)
        images = np.zeros((batch, *self._size, 1), np.uint8)
        row: npt.NDArray[np.float32] = self._slot.predictor(images)[0]
        encode = partial(Predict(self._info, _none, _none, _none, self.spec.limits)._reply, row, "0" * 32)
        return {
            "parse": _each(lambda each: PredictRequest.model_validate_json(each).image, asked),
            "decode": _each(lambda text: decode_image(decode_image_text(text), (*self._size, 1)), texts),
            "forward": _each(lambda each: self._slot.predictor(images), files) / batch,
            "encode": _each(lambda each: encode(), files),
        }


_none: Any = None


def _each(work: Callable[[Any], Any], what: Sequence[Any]) -> float:
    """CPU seconds of one call, at the median of five rounds."""
    rounds = []
    for _ in range(5):
        start = time.process_time()
        for each in what:
            work(each)
        rounds.append((time.process_time() - start) / len(what))
    return statistics.median(rounds)


def _per_request(run: Callable[[], Awaitable[Any]]) -> float:
    async def timed() -> float:
        start = time.process_time()
        await run()
        return (time.process_time() - start) / REQUESTS

    return asyncio.run(timed())


def measure_stages(
    model: str,
    publish: Callable[[str, Path], tuple[Path, Any]],
    size: tuple[int, int],
    whole_cpu_s: Mapping[int, float],
    rounds: int,
) -> list[StageResult | GuardResult]:
    """The stages at 1 and 32 clients and the cost of every guard, with a model that `publish` puts into a registry."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        registry, _ = publish(model, folder)
        stages = Stages(model, registry, size, folder)
        found: list[StageResult | GuardResult] = []
        for clients in (1, 32):
            found += stages.stages(clients, whole_cpu_s.get(clients), rounds)
        return [*found, *stages.guards(rounds)]
