"""The micro-batcher: requests that are there together share one forward pass; nobody waits without a reason.

While the model computes, requests gather; when it is free, all that gathered go at once. Only when others are being
read at that moment does a batch wait for them, and never longer than `max_wait_s`. An image on which the model fails,
fails alone: the batch is cut in halves until the culprit is found.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Row = npt.NDArray[np.float32]
Predict = Callable[[npt.NDArray[Any]], npt.NDArray[np.float32]]
Observe = Callable[[int, float], None]
"""Told of every forward pass: images, seconds."""


class NotFiniteError(ArithmeticError):
    """The model's answer has NaN or infinity in it."""


class Batcher:
    """Joins images into batches for a blocking `predict`, which runs on `executor`, one batch at a time.

    All methods are called on one event loop.
    """

    def __init__(
        self, predict: Predict, executor: Executor, *, max_batch_size: int, max_wait_s: float, observe: Observe
    ) -> None:
        self._predict = predict
        self._executor = executor
        self._max_batch_size = max_batch_size
        self._max_wait_s = max_wait_s
        self._observe = observe
        self._queue: deque[tuple[Pixels, asyncio.Future[Row]]] = deque()
        self._coming = 0
        self._is_computing = False
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

    def submit(self, pixels: Pixels) -> asyncio.Future[Row]:
        """The future class probabilities of one image. Cancelling it takes the image out of its batch."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Row] = loop.create_future()
        self._queue.append((pixels, future))
        if not self._is_computing:
            self._schedule()
        return future

    def _schedule(self) -> None:
        """Consider dispatching after what the loop is doing now, which may bring more images."""
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._consider)

    def _consider(self) -> None:
        self._is_scheduled = False
        if self._is_computing or not self._queue:
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
        batch: list[tuple[Pixels, asyncio.Future[Row]]] = []
        while self._queue and len(batch) < self._max_batch_size:
            pixels, future = self._queue.popleft()
            if not future.done():  # its client went away, or its deadline passed
                batch.append((pixels, future))
        if not batch:
            return
        self._is_computing = True
        loop = asyncio.get_running_loop()
        images = [pixels for pixels, _ in batch]
        work = loop.run_in_executor(self._executor, self._compute, images)
        work.add_done_callback(lambda done: self._deliver([future for _, future in batch], done))

    def _deliver(self, futures: list[asyncio.Future[Row]], done: asyncio.Future[list[Row | Exception]]) -> None:
        self._is_computing = False
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
        """On the executor: one row or one error for each image."""
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
