"""The prediction handler: body -> images -> pixels -> batch -> reply."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Final

import numpy as np

from dlhpc.serving.batching import Batcher, Row
from dlhpc.serving.bodies import Asked, Form, Pixels, asked, form_of, pixels_of
from dlhpc.serving.exchange import Refusal, Reply, Request, id_and_end
from dlhpc.serving.slots import Slot
from dlhpc.spec.serving import LimitsSpec
from dlhpc.spec.wire import (
    Failure,
    FieldError,
    ItemProblem,
    Prediction,
    PredictionsReply,
    PredictReply,
)

INLINE_BODY_BYTES: Final = 64 * 1024
INLINE_PIXELS: Final = 128 * 1024
"""Up to here an image is decoded on the event loop (about 2 ms at worst): another thread costs as much."""

_log = logging.getLogger(__name__)


class Predict:
    """Handles `POST /predict` with one slot."""

    def __init__(
        self,
        slot: Slot,
        batcher: Batcher,
        readers: Executor,
        limits: LimitsSpec,
        client: Callable[[Request], str] = lambda request: request.peer,
    ) -> None:
        """`client` tells who sent a request: the batcher is fair over clients."""
        self._slot = slot
        self._batcher = batcher
        self._readers = readers
        self._limits = limits
        self._client = client
        self._most = min(limits.max_images, limits.max_concurrent or limits.max_images)

    async def __call__(self, request: Request) -> Reply:
        """The reply; Refusal for anything that cannot be answered, TimeoutError for what is too late to be computed."""
        with self._batcher.coming():
            images = await self._read(form_of(request), await self.body(request))
        if isinstance(images, Asked):
            return await self._many(images, request)
        try:
            row = await self._batcher.submit(images, request.deadline, self._client(request))
        except TimeoutError:
            raise
        except Exception as error:
            raise self._failed(error, request) from error
        content = self._reply(row, request.id)
        return Reply(200, content, id_at=len(content) - len(id_and_end(request.id)))

    async def body(self, request: Request) -> bytes:
        """A request's body, when its type is right; the batch is told that it is coming."""
        form_of(request)
        with self._batcher.coming():
            return await request.body(self._limits.max_body_bytes)

    async def _read(self, form: Form, body: bytes) -> Pixels | Asked:
        """The pixels of one image, read here when it is quick, otherwise on another thread; several not decoded yet."""
        most = self._limits.max_image_pixels
        if len(body) <= INLINE_BODY_BYTES:
            try:
                return self._read_now(form, body, min(most, INLINE_PIXELS))
            except Refusal as refusal:
                if refusal.code != "image_too_large" or most <= INLINE_PIXELS:
                    raise
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read_now, form, body, most)

    def _read_now(self, form: Form, body: bytes, max_pixels: int) -> Pixels | Asked:
        shape = self._slot.info.input_shape
        what = asked(form, body, shape, self._most)
        return what if what.is_many else pixels_of(what, 0, shape, max_pixels)

    async def _many(self, images: Asked, request: Request) -> Reply:
        """The answer to several images: what is wrong with one of them harms no other."""
        shape, count = self._slot.info.input_shape, len(images.sources)
        request.weigh(count)
        request.keep(count * math.prod(shape))
        with self._batcher.coming():
            read = await asyncio.get_running_loop().run_in_executor(self._readers, self._decoded, images)
        client = self._client(request)
        pixels = (each for each in read if not isinstance(each, Refusal))
        futures = [self._batcher.submit(each, request.deadline, client) for each in pixels]
        rows = iter(await asyncio.gather(*futures, return_exceptions=True))
        outcomes = [each if isinstance(each, Refusal) else self._outcome(next(rows), request) for each in read]
        failures = [each for each in outcomes if isinstance(each, Refusal)]
        if len(failures) == count:
            raise _nothing(images.field, failures)
        return self._replies(outcomes, request.id)

    def _decoded(self, images: Asked) -> list[Pixels | Refusal]:
        """On a reader's thread: the pixels of each image, or what is wrong with it."""
        shape, most = self._slot.info.input_shape, self._limits.max_image_pixels
        return [_pixels_or_refusal(images, index, shape, most) for index in range(len(images.sources))]

    def _outcome(self, row: Row | BaseException, request: Request) -> Row | Refusal:
        """What became of an image in its pass. One that came too late was too late with all the others."""
        if isinstance(row, Exception) and not isinstance(row, TimeoutError):
            return self._failed(row, request)
        if isinstance(row, BaseException):
            raise row
        return row

    def _failed(self, error: Exception, request: Request) -> Refusal:
        _log.error("request %s: the model failed: %s: %s", request.id, type(error).__name__, error)
        return Refusal("prediction_failed", f"the model failed on this image: {error}")

    def _reply(self, row: Row, request_id: str) -> bytes:
        info = self._slot.info
        index = int(row.argmax())
        rounded = np.round(row.astype(np.float64), 7).tolist()
        reply = PredictReply.model_construct(
            index=index,
            label=info.classes[index],
            probabilities=dict(zip(info.classes, rounded, strict=True)),
            model=info.name,
            digest=info.digest,
            request_id=request_id,
        )
        return reply.model_dump_json(by_alias=True).encode()

    def _replies(self, outcomes: list[Row | Refusal], request_id: str) -> Reply:
        info = self._slot.info
        reply = PredictionsReply.model_construct(
            predictions=tuple(self._entry(outcome) for outcome in outcomes),
            model=info.name,
            digest=info.digest,
            request_id=request_id,
        )
        content = reply.model_dump_json(by_alias=True).encode()
        has_failures = any(isinstance(each, Refusal) and each.code == "prediction_failed" for each in outcomes)
        return Reply(200, content, id_at=len(content) - len(id_and_end(request_id)), has_failures=has_failures)

    def _entry(self, outcome: Row | Refusal) -> Prediction | Failure:
        if isinstance(outcome, Refusal):
            return Failure(error=ItemProblem(code=outcome.code, status=outcome.status, detail=outcome.detail))
        classes, index = self._slot.info.classes, int(outcome.argmax())
        rounded = np.round(outcome.astype(np.float64), 7).tolist()
        return Prediction.model_construct(
            index=index, label=classes[index], probabilities=dict(zip(classes, rounded, strict=True))
        )


def _pixels_or_refusal(images: Asked, index: int, shape: tuple[int, int, int], most: int) -> Pixels | Refusal:
    try:
        return pixels_of(images, index, shape, most)
    except Refusal as refusal:
        return refusal


def _nothing(field: str, failures: list[Refusal]) -> Refusal:
    """The refusal of a request of which nothing could be answered: for the model's fault where there is one."""
    worst = next((each for each in failures if each.code == "prediction_failed"), failures[0])
    errors = [FieldError(field=f"{field}.{index}", message=each.detail) for index, each in enumerate(failures)]
    return Refusal(worst.code, f"none of {len(failures)} images could be classified. {worst.detail}", errors=errors)
