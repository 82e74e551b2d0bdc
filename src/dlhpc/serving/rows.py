"""Several images of one request on their way through the model: room is made, they are read, and share passes."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Final

import numpy as np

from dlhpc.serving.batching import Batcher, Row
from dlhpc.serving.bodies import Asked, Pixels, pixels_of
from dlhpc.serving.exchange import Refusal, Request
from dlhpc.spec.serving import LimitsSpec

INLINE_BODY_BYTES: Final = 64 * 1024
"""Up to here a body is read on the event loop; longer ones on another thread."""
INLINE_NUMBERS: Final = 64 * 1024
"""Up to here arrays are looked at on the event loop (0.3 ms at worst): another thread costs as much."""
Shape = tuple[int, int, int]
_log = logging.getLogger(__name__)


class Rows:
    """What the images of requests come to in one version of a model."""

    def __init__(
        self, shape: Shape, batcher: Batcher, readers: Executor, limits: LimitsSpec, client: Callable[[Request], str]
    ) -> None:
        """`shape` is the model's; `client` tells who sent a request: the batcher is fair over clients."""
        self._shape = shape
        self._batcher = batcher
        self._readers = readers
        self._limits = limits
        self._client = client
        self.most = min(limits.max_images, limits.max_concurrent or limits.max_images)
        """Images that one request may have."""

    async def one(self, pixels: Pixels, request: Request) -> Row:
        """Probabilities for the image of a request. Refusal when the model fails, TimeoutError when it is too late."""
        try:
            return await self._batcher.submit(pixels, request.deadline, self._client(request))
        except (TimeoutError, MemoryError):
            raise
        except Exception as error:
            raise _failed(error, request) from error

    async def many(self, images: Asked, request: Request) -> list[Row | Refusal]:
        """For each image its probabilities, or what was wrong with it alone.

        Refusal when there is no room for as many, TimeoutError when it is too late for one: it is for all of them.
        """
        count = len(images.sources)
        request.weigh(count)
        request.keep(count * math.prod(self._shape))
        if count * math.prod(self._shape) <= INLINE_NUMBERS and all(
            isinstance(each, np.ndarray) for each in images.sources
        ):
            read = self._read(images)
        else:
            with self._batcher.coming():
                read = await asyncio.get_running_loop().run_in_executor(self._readers, self._read, images)
        client = self._client(request)
        pixels = (each for each in read if not isinstance(each, Refusal))
        futures = [self._batcher.submit(each, request.deadline, client) for each in pixels]
        rows = iter(await asyncio.gather(*futures, return_exceptions=True))
        return [each if isinstance(each, Refusal) else _outcome(next(rows), request) for each in read]

    def _read(self, images: Asked) -> list[Pixels | Refusal]:
        """On a reader's thread: the pixels of each image, or what is wrong with it."""
        most = self._limits.max_image_pixels
        return [_pixels_or_refusal(images, index, self._shape, most) for index in range(len(images.sources))]


def _pixels_or_refusal(images: Asked, index: int, shape: Shape, most: int) -> Pixels | Refusal:
    try:
        return pixels_of(images, index, shape, most)
    except Refusal as refusal:
        return refusal


def _outcome(row: Row | BaseException, request: Request) -> Row | Refusal:
    if isinstance(row, Exception) and not isinstance(row, TimeoutError):
        return _failed(row, request)
    if isinstance(row, BaseException):
        raise row
    return row


def _failed(error: Exception, request: Request) -> Refusal:
    _log.error("%s: the model failed: %s: %s", request, type(error).__name__, error)
    return Refusal("prediction_failed", f"the model failed on this image: {error}")
