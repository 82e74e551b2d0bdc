"""The prediction handler: body -> image -> pixels -> batch -> reply."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Final

import numpy as np
from pydantic import ValidationError

from dlhpc.data.decode import ImageTooLargeError, decode_image
from dlhpc.errors import DataError
from dlhpc.serving.batching import Batcher, Pixels, Row
from dlhpc.serving.exchange import Refusal, Reply, Request, id_and_end
from dlhpc.serving.slots import Slot
from dlhpc.spec.serving import LimitsSpec
from dlhpc.spec.wire import HOW_TO_SEND, FieldError, PredictReply, PredictRequest, decode_image_text

INLINE_BODY_BYTES: Final = 64 * 1024
INLINE_PIXELS: Final = 128 * 1024
"""Up to here an image is decoded on the event loop (about 2 ms at worst): another thread costs as much."""

_JSON_TYPES: Final = (b"application/json", b"text/json")
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

    async def __call__(self, request: Request) -> Reply:
        """The reply; Refusal for anything that cannot be answered, TimeoutError for what is too late to be computed."""
        with self._batcher.coming():
            pixels = await self._read(await self.body(request))
        try:
            row = await self._batcher.submit(pixels, request.deadline, self._client(request))
        except TimeoutError:
            raise
        except Exception as error:
            _log.error("request %s: the model failed: %s: %s", request.id, type(error).__name__, error)
            raise Refusal("prediction_failed", f"the model failed on this image: {error}") from error
        content = self._reply(row, request.id)
        return Reply(200, content, id_at=len(content) - len(id_and_end(request.id)))

    async def body(self, request: Request) -> bytes:
        """A request's body, when its type is right; the batch is told that it is coming."""
        _check_type(request)
        with self._batcher.coming():
            return await request.body(self._limits.max_body_bytes)

    async def _read(self, body: bytes) -> Pixels:
        """Decode here when it is quick, otherwise on another thread."""
        most = self._limits.max_image_pixels
        shape = self._slot.info.input_shape
        if len(body) <= INLINE_BODY_BYTES:
            try:
                return read_image(body, shape, min(most, INLINE_PIXELS))
            except Refusal as refusal:
                if refusal.code != "image_too_large" or most <= INLINE_PIXELS:
                    raise
        return await asyncio.get_running_loop().run_in_executor(self._readers, read_image, body, shape, most)

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


def read_image(body: bytes, shape: tuple[int, int, int], max_pixels: int) -> Pixels:
    """Pixels (H, W, C) uint8 of a PredictRequest's bytes. Raises Refusal, which says what is wrong with them."""
    try:
        text = PredictRequest.model_validate_json(body).image
    except ValidationError as error:
        raise _not_a_request(error, body) from error
    try:
        content = decode_image_text(text)
    except ValueError as error:
        raise Refusal("bad_base64", f"image: {error}") from error
    try:
        return decode_image(content, shape, max_pixels=max_pixels)
    except ImageTooLargeError as error:
        raise Refusal("image_too_large", str(error)) from error
    except DataError as error:
        raise Refusal("bad_image", f"image: {error}; {HOW_TO_SEND}") from error


def _not_a_request(error: ValidationError, body: bytes) -> Refusal:
    faults = error.errors(include_url=False, include_input=False)
    if faults[0]["type"] == "json_invalid":
        what = faults[0]["msg"] if body else "it is empty"
        return Refusal("bad_json", f'{what}; expected {{"image": "<base64>"}}: {HOW_TO_SEND}')
    errors = [FieldError(field=".".join(map(str, fault["loc"])), message=fault["msg"]) for fault in faults]
    told = "; ".join(f"{each.field or 'body'}: {each.message}" for each in errors)
    return Refusal("invalid_request", f'{told}. Expected {{"image": "<base64>"}}: {HOW_TO_SEND}', errors=errors)


def _check_type(request: Request) -> None:
    """Only plain JSON; a request that does not say its type is taken for it."""
    encoding = request.header(b"content-encoding")
    if encoding is not None and encoding.lower() != b"identity":
        raise Refusal(
            "unsupported_media_type", f"content-encoding {encoding.decode('latin-1')!r}: send it plain", close=True
        )
    given = request.header(b"content-type")
    if given is not None and given.partition(b";")[0].strip().lower() not in _JSON_TYPES:
        text = given.decode("latin-1")
        raise Refusal(
            "unsupported_media_type",
            f'content-type {text!r}: expected application/json with {{"image": "<base64>"}}; {HOW_TO_SEND}',
            close=True,
        )
