"""Several images of a request: where they are read, and what becomes of all when one is too late."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from dlhpc.serving import rows as module
from dlhpc.serving.batching import Batcher, Row
from dlhpc.serving.bodies import Asked, Source
from dlhpc.serving.exchange import Refusal, Request
from dlhpc.serving.rows import Rows
from dlhpc.spec.serving import LimitsSpec
from tests.serving.asgi import SHAPE, SLOT, brightness, png, receiving

LIGHT = np.full(SHAPE, 255, np.uint8)


class Readers(ThreadPoolExecutor):
    """Threads that are counted upon."""

    def __init__(self) -> None:
        super().__init__(1)
        self.used = 0

    def submit(self, *arguments: Any, **named: Any) -> Any:
        self.used += 1
        return super().submit(*arguments, **named)


def request(deadline: float | None = None) -> Request:
    made = Request("POST", "/predict", [], receiving([]), "id", "198.51.100.7")
    made.deadline = deadline
    return made


def many(sources: Sequence[Source], **limits: Any) -> tuple[list[Row | Refusal], int]:
    """What becomes of images, and how often a reader's thread was asked."""
    readers = Readers()

    async def scenario() -> list[Row | Refusal]:
        with ThreadPoolExecutor(1) as thread:
            batcher = Batcher(SLOT.predictor, thread, max_batch_size=4, max_wait_s=0.0, observe=lambda size, s: None)
            rows = Rows(SHAPE, batcher, readers, LimitsSpec(**limits), lambda request: request.peer)
            return await rows.many(Asked(sources, True, "images"), request())

    with readers:
        return asyncio.run(scenario()), readers.used


def test_files_are_read_on_another_thread_and_small_arrays_here(monkeypatch: pytest.MonkeyPatch) -> None:
    for sources, used in (([png(255)], 1), ([LIGHT], 0), ([LIGHT, png(255)], 1)):
        outcomes, times = many(sources)
        assert times == used
        assert [row.argmax() for row in outcomes if not isinstance(row, Refusal)] == [1] * len(sources)
    monkeypatch.setattr(module, "INLINE_NUMBERS", LIGHT.size - 1)
    assert many([LIGHT])[1] == 1


def test_each_is_told_its_own_fault() -> None:
    outcomes, _ = many([b"no image", LIGHT, LIGHT - 1, b""])
    assert [isinstance(each, Refusal) for each in outcomes] == [True, False, False, True]


@pytest.mark.parametrize(("images", "at_once", "most"), [(3, 256, 3), (64, 2, 2), (5, None, 5)])
def test_a_request_may_have_what_is_worked_on_at_a_time(images: int, at_once: int | None, most: int) -> None:
    limits = LimitsSpec(max_images=images, max_concurrent=at_once)
    with ThreadPoolExecutor(1) as thread:
        batcher = Batcher(SLOT.predictor, thread, max_batch_size=4, max_wait_s=0.0, observe=lambda size, s: None)
        assert Rows(SHAPE, batcher, thread, limits, lambda request: request.peer).most == most


def test_when_one_is_too_late_all_are() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        is_free = asyncio.Event()

        def slow(inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
            asyncio.run_coroutine_threadsafe(is_free.wait(), loop).result(60)
            return brightness(inputs)

        with ThreadPoolExecutor(1) as thread, ThreadPoolExecutor(1) as readers:
            batcher = Batcher(slow, thread, max_batch_size=1, max_wait_s=0.0, observe=lambda size, s: None)
            rows = Rows(SHAPE, batcher, readers, LimitsSpec(), lambda request: request.peer)
            first = asyncio.ensure_future(rows.one(LIGHT, request()))
            await asyncio.sleep(0)
            late = asyncio.ensure_future(rows.many(Asked([LIGHT, LIGHT], True, "pixels"), request(loop.time())))
            await asyncio.sleep(0)
            is_free.set()
            with pytest.raises(TimeoutError):
                await late
            assert (await first).argmax() == 1

    asyncio.run(scenario())
