"""What the serving tests stand on: an ASGI call made by hand, images, and a slot whose model is written out."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt
from PIL import Image

from dlhpc.serving.plan import plan_of
from dlhpc.serving.replica import Replica
from dlhpc.serving.slots import Slot
from dlhpc.spec.serving import ServingSpec
from dlhpc.spec.wire import ModelInfo

Message = dict[str, Any]
SHAPE = (4, 6, 1)
CLASSES = ("dark", "light")
INFO = ModelInfo(name="m:1", digest="sha256:" + "a" * 64, backend="flax", classes=CLASSES, input_shape=SHAPE)


def brightness(inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """A model: how dark and how light each image is."""
    light = inputs.reshape(len(inputs), -1).mean(axis=1) / 255
    return np.stack([1 - light, light], axis=1).astype(np.float32)


SLOT = Slot(INFO, brightness)


def replica_of(slot: Slot, spec: ServingSpec, replica_id: str) -> Replica:
    """A replica with one version."""
    return Replica(plan_of(slot.info), lambda info: slot, spec, replica_id)


def png(value: int = 200, size: tuple[int, int] = (6, 4), mode: str = "L", format: str = "PNG") -> bytes:
    """A file of one colour; `size` is (width, height)."""
    stream = io.BytesIO()
    Image.new(mode, size, value).save(stream, format)
    return stream.getvalue()


def body(content: bytes | None = None) -> bytes:
    """A prediction request's body."""
    return json.dumps({"image": base64.b64encode(png() if content is None else content).decode()}).encode()


@dataclass
class Answer:
    """What an ASGI application sent."""

    messages: list[Message] = field(default_factory=list)

    @property
    def status(self) -> int:
        status: int = self.messages[0]["status"]
        return status

    @property
    def headers(self) -> dict[str, str]:
        return {key.decode(): value.decode() for key, value in self.messages[0]["headers"]}

    @property
    def content(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages[1:])

    @property
    def json(self) -> Any:
        return json.loads(self.content)


Receive = Callable[[], Awaitable[Message]]


def receiving(parts: Iterable[bytes | None]) -> Receive:
    """A body in parts; None is a client that leaves. After the last part nothing comes any more."""
    parts = list(parts)
    messages = [
        {"type": "http.disconnect"}
        if part is None
        else {"type": "http.request", "body": part, "more_body": number < len(parts) - 1}
        for number, part in enumerate(parts)
    ]

    async def receive() -> Message:
        if messages:
            return messages.pop(0)
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    return receive


async def call(
    app: Any,
    method: str = "POST",
    path: str = "/predict",
    parts: Iterable[bytes | None] = (b"",),
    headers: Sequence[tuple[str, str]] = (),
    receive: Receive | None = None,
    client: str = "198.51.100.7",
) -> Answer:
    """One request by hand; `path` is as it is sent."""
    answer = Answer()

    async def send(message: Message) -> None:
        answer.messages.append(message)

    raw = [(name.encode(), value.encode()) for name, value in headers]
    scope = {
        "type": "http",
        "method": method,
        "path": unquote(path),  # as servers give it
        "raw_path": path.encode(),
        "headers": raw,
        "client": (client, 50000),
    }
    await app(scope, receive or receiving(parts), send)
    return answer
