"""A replica: guards, batcher, model and metrics put together."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from dlhpc.monitoring.metrics import exposition
from dlhpc.serving.replica import Replica
from dlhpc.serving.slots import Slot
from dlhpc.spec.serving import BatchingSpec, LimitsSpec, ServingSpec
from tests.serving.asgi import INFO, SLOT, Answer, body, brightness, call, png, replica_of


class Held:
    """The model of SLOT, which computes until it is let go."""

    def __init__(self) -> None:
        self.has_begun = threading.Event()
        self.is_free = threading.Event()
        self.sizes: list[int] = []

    def __call__(self, inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        self.sizes.append(len(inputs))
        self.has_begun.set()
        assert self.is_free.wait(60)
        return brightness(inputs)


def predict(replica: Replica) -> asyncio.Task[Answer]:
    return asyncio.create_task(call(replica.app, parts=[body()]))


async def held(spec: ServingSpec) -> tuple[Held, Replica, asyncio.Task[Answer]]:
    """A replica that is computing its first prediction."""
    model = Held()
    replica = replica_of(Slot(INFO, model), spec, "r1")
    first = predict(replica)
    await asyncio.to_thread(model.has_begun.wait, 60)
    return model, replica, first


async def settle() -> None:
    """Let everything happen that can."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_health_tells_what_each_version_is_doing() -> None:
    async def run() -> tuple[Answer, Answer]:
        model, replica, first = await held(ServingSpec(batching=BatchingSpec(max_batch_size=1)))
        others = [predict(replica) for _ in range(2)]
        await settle()
        busy = await call(replica.app, "GET", "/health")
        model.is_free.set()
        await asyncio.gather(first, *others)
        return busy, await call(replica.app, "GET", "/health")

    busy, idle = (answer.json["details"][0] for answer in asyncio.run(run()))
    told = {"model": INFO.name, "digest": INFO.digest, "in_flight": 3, "queued": 2, "breaker": "closed"}
    assert (busy["replica"], busy["pid"], busy["in_flight"], busy["lanes"]) == ("r1", os.getpid(), 3, [told])
    assert idle["lanes"] == [told | {"in_flight": 0, "queued": 0}]


def test_a_prediction_is_answered_and_counted() -> None:
    replica = replica_of(SLOT, ServingSpec(), "r1")
    answer = asyncio.run(call(replica.app, parts=[body(png(255))]))
    assert (answer.status, answer.json["label"]) == (200, "light")
    assert "x-request-id" in answer.headers
    text = exposition([("r1", list(replica.snapshot().families))], is_ready=True).decode()
    assert 'dlhpc_requests_total{replica="r1",route="/predict",status="200"} 1.0' in text
    assert 'dlhpc_batch_size_count{replica="r1"} 1.0' in text
    labels = f'backend="flax",digest="{INFO.digest}",model="m:1",replica="r1",verification="full"'
    assert f"dlhpc_model_info{{{labels}}} 1.0" in text


def test_metrics_are_sent_only_when_asked_for() -> None:
    assert replica_of(SLOT, ServingSpec(), "r1").snapshot(with_metrics=False).families == ()


def test_health_is_served_beside_predictions() -> None:
    replica = replica_of(SLOT, ServingSpec(), "r1")
    assert asyncio.run(call(replica.app, "GET", "/readyz")).status == 200
    assert asyncio.run(call(replica.app, "GET", "/health")).json["models"][0]["name"] == "m:1"
    assert asyncio.run(call(replica.app, "GET", "/predict")).status == 405


def test_above_the_limit_predictions_are_refused_at_once_and_health_is_told() -> None:
    async def scenario() -> None:
        model, replica, first = await held(ServingSpec(limits=LimitsSpec(max_concurrent=1)))
        refused = await predict(replica)
        assert (refused.status, refused.json["code"], refused.headers["retry-after"]) == (503, "overloaded", "1")
        assert replica.snapshot().in_flight == 1
        assert (await call(replica.app, "GET", "/readyz")).status == 503
        model.is_free.set()
        assert (await first).status == 200
        assert (await predict(replica)).status == 200

    asyncio.run(scenario())


def test_one_client_that_sends_many_at_once_does_not_make_another_wait_for_all_of_them() -> None:
    async def scenario() -> list[int]:
        model, replica, first = await held(ServingSpec(batching=BatchingSpec(max_batch_size=2)))
        done: list[int] = []

        async def ask(number: int, client: str) -> None:
            assert (await call(replica.app, parts=[body()], client=client)).status == 200
            done.append(number)

        greedy = [asyncio.create_task(ask(number, "192.0.2.1")) for number in range(200)]
        await settle()
        polite = asyncio.create_task(ask(200, "192.0.2.2"))
        await settle()
        model.is_free.set()
        await asyncio.gather(first, polite, *greedy)
        return done

    assert asyncio.run(scenario()).index(200) < 4


def test_draining_completes_what_is_in_flight_and_refuses_the_rest() -> None:
    async def scenario() -> None:
        model, replica, first = await held(ServingSpec())
        replica.drain()
        refused = await predict(replica)
        assert (refused.status, refused.json["code"], refused.headers["connection"]) == (503, "draining", "close")
        assert replica.snapshot().is_draining
        assert (await call(replica.app, "GET", "/readyz")).status == 503
        assert (await call(replica.app, "GET", "/livez")).status == 200
        assert replica.snapshot().in_flight == 1
        model.is_free.set()
        assert (await first).status == 200
        assert replica.snapshot().in_flight == 0

    asyncio.run(scenario())


def test_after_the_deadline_the_client_is_told_and_the_image_leaves_the_queue() -> None:
    async def scenario() -> Held:
        model, replica, first = await held(ServingSpec(limits=LimitsSpec(deadline_s=0.05)))
        second = predict(replica)
        for task in (first, second):
            answer = await task
            assert (answer.status, answer.json["code"]) == (504, "deadline_exceeded")
        model.is_free.set()
        return model

    assert asyncio.run(scenario()).sizes == [1]  # the second was never computed


@pytest.mark.parametrize(("most", "sizes"), [(1, [1, 1, 1]), (2, [1, 2]), (8, [1, 2])])
def test_the_batch_size_is_the_specs(most: int, sizes: list[int]) -> None:
    async def scenario() -> Held:
        model, replica, first = await held(ServingSpec(batching=BatchingSpec(max_batch_size=most)))
        later = [predict(replica), predict(replica)]
        await settle()
        model.is_free.set()
        await asyncio.gather(first, *later)
        return model

    assert asyncio.run(scenario()).sizes == sizes


@pytest.mark.parametrize(("wait_ms", "sizes"), [(1000.0, [2]), (0.0, [1, 1])])
def test_the_batch_wait_is_the_specs(wait_ms: float, sizes: list[int]) -> None:
    async def scenario() -> Held:
        model = Held()
        model.is_free.set()
        replica = replica_of(Slot(INFO, model), ServingSpec(batching=BatchingSpec(max_wait_ms=wait_ms)), "r1")
        rest: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        slow = asyncio.create_task(call(replica.app, receive=rest.get))  # its body is still coming
        await settle()
        quick = predict(replica)
        await settle()
        if not wait_ms:
            await quick
        rest.put_nowait({"type": "http.request", "body": body()})
        await asyncio.gather(slow, quick)
        return model

    assert asyncio.run(scenario()).sizes == sizes


def test_a_client_that_leaves_while_sending_makes_room() -> None:
    async def scenario() -> None:
        replica = replica_of(SLOT, ServingSpec(limits=LimitsSpec(max_concurrent=1)), "r1")
        assert (await call(replica.app, parts=[b"{", None])).messages == []
        assert replica.snapshot().in_flight == 0
        assert (await predict(replica)).status == 200

    asyncio.run(scenario())


def test_bodies_together_take_no_more_than_the_spec_allows() -> None:
    async def scenario() -> list[tuple[int, str]]:
        content = body()
        limits = LimitsSpec(max_body_bytes=len(content), max_buffered_bytes=len(content))
        model, replica, first = await held(ServingSpec(limits=limits))
        refused = await predict(replica)
        model.is_free.set()
        answered = await first
        return [(answer.status, answer.json.get("code", "")) for answer in (refused, answered, await predict(replica))]

    assert asyncio.run(scenario()) == [(503, "overloaded"), (200, ""), (200, "")]
