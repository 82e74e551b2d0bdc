"""The prediction handler: body -> images -> pixels -> batch -> reply."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from typing import Final

import numpy as np

from dlhpc.serving.batching import Batcher, Row
from dlhpc.serving.bodies import Asked, Form, Pixels, asked, form_of, pixels_of
from dlhpc.serving.exchange import Refusal, Reply, Request, id_and_end
from dlhpc.serving.rows import INLINE_BODY_BYTES, Rows
from dlhpc.spec.serving import LimitsSpec
from dlhpc.spec.wire import (
    Failure,
    FieldError,
    ItemProblem,
    ModelInfo,
    Prediction,
    PredictionsReply,
    PredictReply,
)

INLINE_PIXELS: Final = 128 * 1024
"""Up to here an image is decoded on the event loop (about 2 ms at worst): another thread costs as much."""


class Predict:
    """Handles `POST /predict` with one version of a model."""

    def __init__(self, info: ModelInfo, batcher: Batcher, readers: Executor, rows: Rows, limits: LimitsSpec) -> None:
        self._info = info
        self._batcher = batcher
        self._readers = readers
        self._rows = rows
        self._limits = limits

    async def __call__(self, request: Request) -> Reply:
        """The reply; Refusal for anything that cannot be answered, TimeoutError for what is too late to be computed,
        MemoryError."""
        with self._batcher.coming():
            images = await self._read(form_of(request), await self.body(request))
        if isinstance(images, Asked):
            outcomes = await self._rows.many(images, request)
            failures = [each for each in outcomes if isinstance(each, Refusal)]
            if len(failures) == len(outcomes):
                raise _nothing(images.field, failures)
            return self._replies(outcomes, request.id)
        content = self._reply(await self._rows.one(images, request), request.id)
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
        shape = self._info.input_shape
        what = asked(form, body, shape, self._rows.most)
        return what if what.is_many else pixels_of(what, 0, shape, max_pixels)

    def _reply(self, row: Row, request_id: str) -> bytes:
        info = self._info
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
        info = self._info
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
        classes, index = self._info.classes, int(outcome.argmax())
        rounded = np.round(outcome.astype(np.float64), 7).tolist()
        return Prediction.model_construct(
            index=index, label=classes[index], probabilities=dict(zip(classes, rounded, strict=True))
        )


def _nothing(field: str, failures: list[Refusal]) -> Refusal:
    """The refusal of a request of which nothing could be answered: for the model's fault where there is one."""
    worst = next((each for each in failures if each.code == "prediction_failed"), failures[0])
    errors = [FieldError(field=f"{field}.{index}", message=each.detail) for index, each in enumerate(failures)]
    return Refusal(worst.code, f"none of {len(failures)} images could be classified. {worst.detail}", errors=errors)
