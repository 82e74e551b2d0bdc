"""The Open Inference Protocol, version 2: its routes, and inference behind the same guards as `/predict`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import Executor
from typing import Final

from pydantic import BaseModel

from dlhpc import __version__
from dlhpc.serving.batching import Batcher, Row
from dlhpc.serving.bodies import Asked
from dlhpc.serving.exchange import Handler, Headers, Refusal, Reply, Request, check_plain
from dlhpc.serving.health import State
from dlhpc.serving.models import Models
from dlhpc.serving.rows import INLINE_BODY_BYTES, Rows
from dlhpc.serving.tensors import images_of, output, parsed
from dlhpc.spec.oip import (
    EXTENSIONS,
    INPUT,
    JSON_LENGTH,
    OUTPUT,
    PLATFORM,
    InferReply,
    InferRequest,
    Live,
    ModelMetadata,
    OipError,
    OutputParameters,
    Ready,
    ReplyParameters,
    ServerMetadata,
    TensorMetadata,
)
from dlhpc.spec.serving import LimitsSpec
from dlhpc.spec.wire import ModelInfo

ROOT: Final = "/v2"
_MODEL: Final = f"{ROOT}/models/{{name}}"
_JSON_LENGTH: Final = JSON_LENGTH.encode()
_TYPES: Final = (b"application/json", b"application/octet-stream")


class Infer:
    """Handles the protocol's `infer` with one version of a model."""

    def __init__(self, info: ModelInfo, batcher: Batcher, readers: Executor, rows: Rows, limits: LimitsSpec) -> None:
        self._info = info
        self._batcher = batcher
        self._readers = readers
        self._rows = rows
        self._limits = limits

    async def __call__(self, request: Request) -> Reply:
        """The reply; Refusal for anything that cannot be answered, TimeoutError for what is too late to be computed."""
        body = await self.body(request)
        if len(body) <= INLINE_BODY_BYTES:
            asked, images = self._read(body, request)
        else:
            loop = asyncio.get_running_loop()
            asked, images = await loop.run_in_executor(self._readers, self._read, body, request)
        rows: list[Row] = []
        for outcome in await self._rows.many(images, request):
            if isinstance(outcome, Refusal):  # a tensor has no place for errors
                raise outcome
            rows.append(outcome)
        return self._reply(asked, rows)

    async def body(self, request: Request) -> bytes:
        """A request's body, when its type is right; the batch is told that it is coming."""
        check_plain(request)
        given = request.only(b"content-type")
        if given is not None and given.partition(b";")[0].strip().lower() not in _TYPES:
            raise Refusal(
                "unsupported_media_type",
                f"content-type {given[:200].decode('latin-1')!r}: expected application/json, or with binary tensors "
                "application/octet-stream",
                close=True,
            )
        with self._batcher.coming():
            return await request.body(self._limits.max_body_bytes)

    def _read(self, body: bytes, request: Request) -> tuple[InferRequest, Asked]:
        asked, binary = parsed(body, request.header(_JSON_LENGTH))
        return asked, images_of(asked, binary, self._info.input_shape, self._rows.most)

    def _reply(self, asked: InferRequest, rows: list[Row]) -> Reply:
        how = asked.outputs[0].parameters if asked.outputs else None
        how = how or OutputParameters()
        by_default = asked.parameters is not None and asked.parameters.binary_data_output
        is_binary = by_default if how.binary_data is None else how.binary_data
        told, content = output(rows, self._info.classes, how, is_binary=is_binary)
        name, _, number = self._info.name.partition(":")
        reply = InferReply(
            model_name=name,
            model_version=number or self._info.digest,
            id=asked.id,
            parameters=ReplyParameters(digest=self._info.digest),
            outputs=(told,),
        )
        head = reply.model_dump_json(exclude_none=True).encode()
        if not is_binary:
            return Reply(200, head)
        headers: Headers = ((_JSON_LENGTH, b"%d" % len(head)),)
        return Reply(200, head + content, b"application/octet-stream", headers)


def oip_error(refusal: Refusal, request: Request) -> Reply:
    """A refusal in the protocol's words, with its code."""
    told = OipError(error=refusal.detail, code=refusal.code, request_id=request.id)
    return Reply(refusal.status, told.model_dump_json().encode(), headers=refusal.headers)


def speaks_oip(request: Request) -> bool:
    """Whether a request is made in this protocol, by its path."""
    return request.path == ROOT or request.path.startswith(f"{ROOT}/")


def oip_routes(models: Models, state: State, infer: Handler) -> Mapping[str, Mapping[str, Handler]]:
    """The protocol's routes; `infer` is behind its guards already."""

    async def server(request: Request) -> Reply:
        return _told(ServerMetadata(name=PLATFORM, version=__version__, extensions=EXTENSIONS))

    async def live(request: Request) -> Reply:
        return _told(Live(live=True))

    async def ready(request: Request) -> Reply:
        is_ready = (await state()).status == "ready"
        return _told(Ready(ready=is_ready), 200 if is_ready else 503)

    async def model_ready(request: Request) -> Reply:
        info = _info(models, request)
        is_ready = (await state()).status == "ready"
        return _told(Ready(ready=is_ready, name=info.name.partition(":")[0]), 200 if is_ready else 503)

    async def metadata(request: Request) -> Reply:
        info, name = _info(models, request), request.parameters["name"]
        served = models.served(name)
        return _told(_metadata(name, [each.name.partition(":")[2] or each.digest for each in served], info))

    routes = {f"{ROOT}/health/live": live, f"{ROOT}/health/ready": ready, ROOT: server}
    for model in (_MODEL, f"{_MODEL}/versions/{{version}}"):
        routes |= {model: metadata, f"{model}/ready": model_ready}
    table: dict[str, Mapping[str, Handler]] = {path: {"GET": handler} for path, handler in routes.items()}
    for model in (_MODEL, f"{_MODEL}/versions/{{version}}"):
        table[f"{model}/infer"] = {"POST": infer}
    return table


def _info(models: Models, request: Request) -> ModelInfo:
    return models.lane(request.parameters["name"], request.parameters.get("version")).info


def _metadata(name: str, versions: list[str], info: ModelInfo) -> ModelMetadata:
    return ModelMetadata(
        name=name,
        versions=tuple(versions),
        platform=f"{PLATFORM}_{info.backend}",
        inputs=(TensorMetadata(name=INPUT, datatype="UINT8", shape=(-1, *info.input_shape)),),
        outputs=(TensorMetadata(name=OUTPUT, datatype="FP32", shape=(-1, len(info.classes))),),
    )


def _told(what: BaseModel, status: int = 200) -> Reply:
    return Reply(status, what.model_dump_json(exclude_none=True).encode())
