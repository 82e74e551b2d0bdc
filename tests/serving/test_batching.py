"""The micro-batcher, with a model that the tests hold and let go."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from dlhpc.serving.batching import Batcher, NotFiniteError, Pixels

POISON, NAN = 13, 14
FOREVER = 60.0


def image(value: int) -> Pixels:
    return np.full((2, 2, 1), value, np.uint8)


class Model:
    """Answers each image with its own value; fails on POISON. While held, it computes on and on."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.is_free = threading.Event()
        self.is_free.set()
        self.has_begun = threading.Event()

    def __call__(self, inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        values = [int(each[0, 0, 0]) for each in inputs]
        self.batches.append(values)
        self.has_begun.set()
        assert self.is_free.wait(FOREVER)
        if POISON in values:
            raise ValueError("poisoned")
        rows = np.array([[value, 1] for value in values], np.float32)
        rows[[value == NAN for value in values]] = np.nan
        return rows


class Bench:
    """A model behind a batcher, and what the batcher tells of its passes."""

    def __init__(self, max_batch_size: int = 4, max_wait_s: float = FOREVER) -> None:
        self.model = Model()
        self.sizes: list[int] = []
        self.executor = ThreadPoolExecutor(1)
        self.batcher = Batcher(
            self.model,
            self.executor,
            max_batch_size=max_batch_size,
            max_wait_s=max_wait_s,
            observe=lambda size, seconds: self.sizes.append(size),
        )

    def submit(self, *values: int) -> list[asyncio.Future[Any]]:
        return [self.batcher.submit(image(value)) for value in values]

    async def hold(self) -> asyncio.Future[Any]:
        """Keep the model busy with one image."""
        self.model.is_free.clear()
        (first,) = self.submit(0)
        await asyncio.to_thread(self.model.has_begun.wait, FOREVER)
        return first


def run(scenario: Callable[[Bench], Any], **options: Any) -> Bench:
    bench = Bench(**options)
    asyncio.run(asyncio.wait_for(scenario(bench), FOREVER))
    bench.executor.shutdown()
    return bench


def test_a_lone_image_does_not_wait() -> None:
    async def scenario(bench: Bench) -> None:
        (future,) = bench.submit(7)
        assert (await future).tolist() == [7, 1]

    assert run(scenario).model.batches == [[7]]  # max_wait_s is a minute: waiting would time out


def test_images_that_are_there_together_share_a_pass() -> None:
    async def scenario(bench: Bench) -> None:
        rows = await asyncio.gather(*bench.submit(1, 2, 3))
        assert [row[0] for row in rows] == [1, 2, 3]

    bench = run(scenario)
    assert bench.model.batches == [[1, 2, 3]]
    assert bench.sizes == [3]


def test_images_gather_while_the_model_computes_and_a_batch_is_no_larger_than_allowed() -> None:
    async def scenario(bench: Bench) -> None:
        first = await bench.hold()
        later = bench.submit(1, 2, 3, 4, 5, 6)
        await asyncio.sleep(0)
        assert bench.model.batches == [[0]]
        bench.model.is_free.set()
        await asyncio.gather(first, *later)

    assert run(scenario).model.batches == [[0], [1, 2, 3, 4], [5, 6]]


def test_a_batch_waits_for_an_image_that_is_being_read() -> None:
    async def scenario(bench: Bench) -> None:
        with bench.batcher.coming():
            (first,) = bench.submit(1)
            for _ in range(10):
                await asyncio.sleep(0)
            assert bench.model.batches == []
        (second,) = bench.submit(2)
        await asyncio.gather(first, second)

    assert run(scenario).model.batches == [[1, 2]]


async def self_destruct(bench: Bench) -> None:
    with bench.batcher.coming():
        await asyncio.sleep(0)
        assert bench.model.batches == []  # it waits for this one
        raise ValueError("no image")


def test_a_batch_goes_when_what_it_waited_for_fails() -> None:
    async def scenario(bench: Bench) -> None:
        (first,) = bench.submit(1)
        with pytest.raises(ValueError, match="no image"):
            await self_destruct(bench)
        await first

    assert run(scenario).model.batches == [[1]]


def test_a_batch_waits_no_longer_than_allowed() -> None:
    async def scenario(bench: Bench) -> None:
        with bench.batcher.coming():
            (first,) = bench.submit(1)
            await first  # although the other never comes

    assert run(scenario, max_wait_s=0.001).model.batches == [[1]]


def test_a_full_batch_does_not_wait() -> None:
    async def scenario(bench: Bench) -> None:
        with bench.batcher.coming():
            await asyncio.gather(*bench.submit(1, 2, 3, 4))

    assert run(scenario).model.batches == [[1, 2, 3, 4]]


def test_without_a_wait_nothing_waits() -> None:
    async def scenario(bench: Bench) -> None:
        with bench.batcher.coming():
            (first,) = bench.submit(1)
            await first

    assert run(scenario, max_wait_s=0.0).model.batches == [[1]]


def test_a_client_of_one_image_does_not_wait_for_all_of_another() -> None:
    async def scenario(bench: Bench) -> None:
        first = await bench.hold()
        greedy = [bench.batcher.submit(image(value), client="greedy") for value in range(20, 26)]
        polite = bench.batcher.submit(image(1), client="polite")
        assert (bench.batcher.ahead("greedy"), bench.batcher.ahead("polite"), bench.batcher.ahead("new")) == (7, 3, 2)
        bench.model.is_free.set()
        await asyncio.gather(first, polite, *greedy)

    assert run(scenario).model.batches == [[0], [20, 1, 21, 22], [23, 24, 25]]


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_a_poisoned_image_fails_alone(place: int) -> None:
    async def scenario(bench: Bench) -> None:
        values = [1, 2, 3]
        values.insert(place, POISON)
        answers = await asyncio.gather(*bench.submit(*values), return_exceptions=True)
        for value, answer in zip(values, answers, strict=True):
            if value == POISON:
                assert isinstance(answer, ValueError)
            else:
                assert not isinstance(answer, BaseException)
                assert answer[0] == value

    bench = run(scenario)
    assert sum(bench.sizes) == 3  # failed passes are not counted


def test_an_answer_that_is_not_finite_fails_alone() -> None:
    async def scenario(bench: Bench) -> None:
        good, bad = await asyncio.gather(*bench.submit(1, NAN), return_exceptions=True)
        assert isinstance(bad, NotFiniteError)
        assert not isinstance(good, BaseException)

    assert run(scenario).model.batches == [[1, NAN]]


def test_a_cancelled_image_leaves_its_batch() -> None:
    async def scenario(bench: Bench) -> None:
        first = await bench.hold()
        one, two, three = bench.submit(1, 2, 3)
        two.cancel()
        bench.model.is_free.set()
        await asyncio.gather(first, one, three)

    assert run(scenario).model.batches == [[0], [1, 3]]


def test_a_batch_whose_images_were_all_cancelled_is_not_computed() -> None:
    async def scenario(bench: Bench) -> None:
        first = await bench.hold()
        for future in bench.submit(1, 2):
            future.cancel()
        bench.model.is_free.set()
        await first
        (last,) = bench.submit(3)
        await last

    assert run(scenario).model.batches == [[0], [3]]


def test_an_image_cancelled_while_it_is_computed_harms_nobody() -> None:
    async def scenario(bench: Bench) -> None:
        first = await bench.hold()
        first.cancel()
        (second,) = bench.submit(1)
        bench.model.is_free.set()
        assert (await second)[0] == 1

    run(scenario)


def test_a_model_that_gives_another_number_of_rows_fails_all_of_the_batch() -> None:
    def one_too_many(inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        return np.zeros((len(inputs) + 1, 2), np.float32)

    async def scenario() -> list[Any]:
        with ThreadPoolExecutor(1) as executor:
            batcher = Batcher(one_too_many, executor, max_batch_size=4, max_wait_s=0.0, observe=lambda size, s: None)
            futures = [batcher.submit(image(1)), batcher.submit(image(2))]
            return await asyncio.gather(*futures, return_exceptions=True)

    assert [type(answer) for answer in asyncio.run(scenario())] == [ValueError, ValueError]


def test_what_is_too_late_is_never_computed() -> None:
    async def scenario(bench: Bench) -> None:
        now = asyncio.get_running_loop().time()
        first = await bench.hold()
        late = [bench.batcher.submit(image(value), now) for value in (1, 2)]
        intime = bench.batcher.submit(image(3), now + FOREVER)
        bench.model.is_free.set()
        await first
        assert (await intime).tolist() == [3, 1]
        for future in late:
            with pytest.raises(TimeoutError):
                await future

    assert run(scenario).model.batches == [[0], [3]]


def test_it_tells_what_waits_and_how_long_passes_take() -> None:
    async def scenario(bench: Bench) -> None:
        loop = asyncio.get_running_loop()
        passes: list[tuple[int, float]] = []
        bench.batcher._passed = lambda size, seconds: passes.append((size, seconds))
        assert (bench.batcher.ahead(""), bench.batcher.running(loop.time())) == (0, None)
        before = loop.time()
        first = await bench.hold()
        others = bench.submit(1, POISON)
        with bench.batcher.coming():
            assert bench.batcher.ahead("") == 3
        after = loop.time()
        running = bench.batcher.running(after)
        assert running is not None
        assert running[0] == 1
        assert 0.0 <= running[1] <= after - before
        bench.model.is_free.set()
        await asyncio.gather(first, *others, return_exceptions=True)
        assert [size for size, _ in passes] == [1, 2]  # the one that failed too
        assert passes[0][1] >= running[1]
        assert (bench.batcher.ahead(""), bench.batcher.running(loop.time())) == (0, None)

    run(scenario)


def test_what_would_be_too_late_after_its_pass_makes_room_for_others() -> None:
    async def scenario(bench: Bench) -> None:
        now = asyncio.get_running_loop().time()
        bench.batcher._pass_s = lambda size: 100.0 * size
        first = await bench.hold()
        hopeless = [bench.batcher.submit(image(value), now + 50.0) for value in (1, 2)]
        others = [bench.batcher.submit(image(3), now + 1000.0), bench.batcher.submit(image(4))]
        bench.model.is_free.set()
        await asyncio.gather(first, *others)
        for future in hopeless:
            with pytest.raises(TimeoutError):
                await future

    assert run(scenario).model.batches == [[0], [3, 4]]


def test_when_all_would_be_too_late_the_last_may_try() -> None:
    async def scenario(bench: Bench) -> None:
        now = asyncio.get_running_loop().time()
        bench.batcher._pass_s = lambda size: 1000.0
        first = await bench.hold()
        *hopeless, last = [bench.batcher.submit(image(value), now + 50.0) for value in (1, 2, 3)]
        over = bench.batcher.submit(image(4), now)
        bench.model.is_free.set()
        await first
        assert (await last).tolist() == [3, 1]
        for future in (*hopeless, over):
            with pytest.raises(TimeoutError):
                await future

    assert run(scenario).model.batches == [[0], [3]]
