"""The micro-batcher: requests that are there together share one forward pass; nobody waits without a reason.

While the model computes, requests gather; when it is free, all that gathered go at once, or when these are more than
fit, as many of each client as of any other. Only when others are being read at that moment does a batch wait for them,
and never longer than `max_wait_s`. An image on which the model fails, fails alone: the batch is cut in halves until the
culprit is found.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dlhpc.serving.fair_queue import FairQueue

Pixels = npt.NDArray[Any]
"""Of one image: uint8, or float32 in 0..1."""
Row = npt.NDArray[np.float32]
Predict = Callable[[npt.NDArray[Any]], npt.NDArray[np.float32]]
Observe = Callable[[int, float], None]
"""Told of every forward pass: images, seconds."""
Ended = Callable[[Pixels, float, "asyncio.Future[Row]"], None]
Passed = Callable[[int, float], None]
"""Told on the event loop when a batch is done, however: images, seconds."""


class NotFiniteError(ArithmeticError):
    """The model's answer has NaN or infinity in it."""


class _Item(NamedTuple):
    """An image in the queue."""

    pixels: Pixels
    future: asyncio.Future[Row]
    deadline: float | None


class Batcher:
    """Joins images into batches for a blocking `predict`, which runs on `executor`, one batch at a time.

    All methods are called on one event loop.
    """

    def __init__(
        self,
        predict: Predict,
        executor: Executor,
        *,
        max_batch_size: int,
        max_wait_s: float,
        observe: Observe,
        passed: Passed = lambda size, seconds: None,
        pass_s: Callable[[int], float] = lambda size: 0.0,
    ) -> None:
        """`pass_s` tells how long a pass of so many images takes, as far as that is known."""
        self._predict = predict
        self._executor = executor
        self._max_batch_size = max_batch_size
        self._max_wait_s = max_wait_s
        self._observe = observe
        self._passed = passed
        self._pass_s = pass_s
        self.ended: Ended | None = None
        """Told of each image whose computation has ended: its pixels, the seconds that it took, and what came of it."""
        self._queue = FairQueue[_Item]()
        self._coming = 0
        self._running: tuple[int, float] | None = None
        self._is_scheduled = False
        self._timer: asyncio.TimerHandle | None = None

    @contextmanager
    def coming(self) -> Iterator[None]:
        """Announce an image that is being read: a batch may wait for it."""
        self._coming += 1
        try:
            yield
        finally:
            self._coming -= 1
            if not self._coming and self._timer is not None:
                self._schedule()

    @property
    def waiting(self) -> int:
        """Images that wait for a forward pass."""
        return len(self._queue)

    def ahead(self, client: str) -> int:
        """Of those that wait or are being read, how many would go before an image that this client sends now."""
        return self._queue.ahead(client) + self._coming

    def running(self, now: float) -> tuple[int, float] | None:
        """The batch that is being computed, as its images and the seconds since it began; None when none is."""
        return None if self._running is None else (self._running[0], now - self._running[1])

    def submit(self, pixels: Pixels, deadline: float | None = None, client: str = "") -> asyncio.Future[Row]:
        """The future class probabilities of one image. Cancelling it takes the image out of its batch.

        Clients get their turns in a queue that is longer than a batch: `client` is who sent it.
        When it is not computed by `deadline`, on the event loop's clock, it never is: TimeoutError.
        """
        loop = asyncio.get_running_loop()
        item = _Item(pixels, loop.create_future(), deadline)
        if self.ended is not None:
            item.future.add_done_callback(partial(self._tell, self.ended, pixels, loop.time()))
        self._queue.push(client, item)
        if self._running is None:
            self._schedule()
        return item.future

    def _tell(self, ended: Ended, pixels: Pixels, since: float, done: asyncio.Future[Row]) -> None:
        ended(pixels, done.get_loop().time() - since, done)

    def _schedule(self) -> None:
        """Consider dispatching after what the loop is doing now, which may bring more images."""
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._consider)

    def _consider(self) -> None:
        self._is_scheduled = False
        if self._running is not None or not self._queue:
            return
        if self._coming and self._max_wait_s and len(self._queue) < self._max_batch_size:
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(self._max_wait_s, self._dispatch)
            return
        self._dispatch()

    def _dispatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        batch = self._next(now)
        if not batch:
            return
        self._running = len(batch), now
        work = loop.run_in_executor(self._executor, self._compute, [item.pixels for item in batch])
        work.add_done_callback(lambda done: self._deliver([item.future for item in batch], done))

    def _next(self, now: float) -> list[_Item]:
        """The next batch, without what would be too late. Were all of it, the last may try: its pass may be quick."""
        done_at = now + self._pass_s(min(len(self._queue), self._max_batch_size))
        batch: list[_Item] = []
        late: list[_Item] = []
        while self._queue and len(batch) < self._max_batch_size:
            item = self._queue.pop()
            if item.future.done():  # its client went away
                continue
            (batch if item.deadline is None or item.deadline >= done_at else late).append(item)
        may_try = [item for item in late if item.deadline is not None and item.deadline > now]
        if not batch and may_try:
            batch = may_try[-1:]
        for item in late:
            if not batch or item is not batch[0]:
                item.future.set_exception(TimeoutError("its deadline would pass before its answer"))
        return batch

    def _deliver(self, futures: list[asyncio.Future[Row]], done: asyncio.Future[list[Row | Exception]]) -> None:
        assert self._running is not None
        size, since = self._running
        self._passed(size, asyncio.get_running_loop().time() - since)
        self._running = None
        if self._queue:
            self._schedule()
        error = done.exception()
        answers: Sequence[Row | BaseException] = [error] * len(futures) if error is not None else done.result()
        for future, answer in zip(futures, answers, strict=True):
            if future.done():
                continue
            if isinstance(answer, BaseException):
                future.set_exception(answer)
            else:
                future.set_result(answer)

    def _compute(self, images: list[Pixels]) -> list[Row | Exception]:
        """On the executor: one row or one error for each image. Bytes and floats are passes of their own."""
        if len({image.dtype for image in images}) > 1:
            return self._compute_apart(images)
        started = time.perf_counter()
        try:
            rows = self._predict(np.stack(images))
        except Exception as error:
            if len(images) == 1:
                return [error]
            half = len(images) // 2
            return self._compute(images[:half]) + self._compute(images[half:])
        self._observe(len(images), time.perf_counter() - started)
        if len(rows) != len(images):  # nobody could tell whose they are
            raise ValueError(f"the model gave {len(rows)} rows for {len(images)} images")
        finite: list[bool] = np.atleast_1d(np.isfinite(rows).all(axis=1)).tolist()
        return [
            row if is_finite else NotFiniteError("the model's probabilities are not finite")
            for row, is_finite in zip(rows, finite, strict=True)
        ]

    def _compute_apart(self, images: list[Pixels]) -> list[Row | Exception]:
        """The same for images of several types, in as many passes."""
        places: dict[Any, list[int]] = {}
        for place, image in enumerate(images):
            places.setdefault(image.dtype, []).append(place)
        answers: dict[int, Row | Exception] = {}
        for alike in places.values():
            answers.update(zip(alike, self._compute([images[place] for place in alike]), strict=True))
        return [answers[place] for place in range(len(images))]
