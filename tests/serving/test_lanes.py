"""A lane answers with its version, in every protocol, and counts what it is answering."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from dlhpc.monitoring.metrics import ReplicaMetrics
from dlhpc.serving.exchange import Reply, Request
from dlhpc.serving.guards.cache import Replies
from dlhpc.serving.lanes import Lane, Surroundings
from dlhpc.serving.slots import Slot
from dlhpc.spec.serving import ServingSpec
from tests.serving.asgi import INFO, SHAPE, brightness


class Brightest:
    """A protocol: the probability of light of an image of the brightness that the body says."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane

    async def body(self, request: Request) -> bytes:
        return await request.body(100)

    async def __call__(self, request: Request) -> Reply:
        row = await self._lane.batcher.submit(np.full(SHAPE, int(await self.body(request)), np.uint8))
        return Reply(200, b"%.2f" % row[1])


def lane_of(predictor: Any) -> Lane:
    readers = ThreadPoolExecutor(1)
    around = Surroundings(
        ServingSpec(), ReplicaMetrics(), Replies(0), readers, {"brightest": Brightest, "other": Brightest}
    )
    lane = Lane(INFO, around, lambda lane: asyncio.sleep(0))
    lane.slot = Slot(INFO, predictor)
    return lane


def request(content: bytes) -> Request:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": content}

    return Request("POST", "/", (), receive, "r")


def test_it_answers_in_every_protocol_and_counts_until_the_reply_is_there() -> None:
    is_free = threading.Event()
    has_begun = threading.Event()

    def held(inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        has_begun.set()
        assert is_free.wait(60)
        return brightness(inputs)

    async def scenario() -> None:
        lane = lane_of(held)
        first = asyncio.create_task(lane.answer("brightest", request(b"255")))
        await asyncio.to_thread(has_begun.wait, 60)
        assert lane.in_flight == 1
        is_free.set()
        assert (await first).body == b"1.00"
        assert (await lane.answer("other", request(b"51"))).body == b"0.20"
        assert lane.in_flight == 0

    asyncio.run(scenario())


def test_a_lane_that_retires_ends_when_what_is_in_flight_is_answered() -> None:
    is_free, has_begun = threading.Event(), threading.Event()
    ended: list[str] = []

    def held(inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        has_begun.set()
        assert is_free.wait(60)
        return brightness(inputs)

    async def scenario() -> None:
        lane = lane_of(held)
        first = asyncio.create_task(lane.answer("brightest", request(b"255")))
        await asyncio.to_thread(has_begun.wait, 60)
        lane.retire(lambda: ended.append("busy"))
        assert ended == []
        is_free.set()
        assert (await first).body == b"1.00"
        assert ended == ["busy"]
        lane_of(brightness).retire(lambda: ended.append("idle"))
        assert ended == ["busy", "idle"]

    asyncio.run(scenario())
