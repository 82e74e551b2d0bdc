"""The prediction handler: what is sent, and what comes of it."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from dlhpc.serving import predict as module
from dlhpc.serving.batching import Batcher
from dlhpc.serving.exchange import Refusal, Reply, Request
from dlhpc.serving.predict import INLINE_BODY_BYTES, Predict, read_image
from dlhpc.serving.slots import Slot
from dlhpc.spec.serving import LimitsSpec
from dlhpc.spec.wire import PredictReply
from tests.serving.asgi import CLASSES, INFO, SHAPE, SLOT, body, brightness, png, receiving

JSON = [(b"content-type", b"application/json")]
MANY = 10**9


def ask(
    content: bytes,
    headers: list[tuple[bytes, bytes]] = JSON,
    slot: Slot = SLOT,
    limits: LimitsSpec = LimitsSpec(),  # noqa: B008 - frozen
) -> Reply:
    """One request to the handler."""

    async def scenario() -> Reply:
        with ThreadPoolExecutor(1) as thread, ThreadPoolExecutor(1, "reader") as readers:
            batcher = Batcher(slot.predictor, thread, max_batch_size=4, max_wait_s=0.0, observe=lambda size, s: None)
            request = Request("POST", "/predict", headers, receiving([content]), "the-id")
            return await Predict(slot, batcher, readers, limits)(request)

    return asyncio.run(scenario())


def refused(content: bytes, **options: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        ask(content, **options)
    return caught.value


def header_of_a_bomb(width: int, height: int) -> bytes:
    """A PNG whose header promises many pixels; there are none."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in ((b"IHDR", header), (b"IDAT", b""))
    )


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "BMP", "WEBP"])
def test_an_image_gets_its_class(format: str) -> None:
    reply = ask(body(png(255, format=format)))
    told = PredictReply.model_validate_json(reply.body)
    assert (reply.status, reply.content_type) == (200, b"application/json")
    assert (told.index, told.label, told.model, told.digest) == (1, "light", INFO.name, INFO.digest)
    assert told.request_id == "the-id"
    assert tuple(told.probabilities) == CLASSES
    assert told.probabilities["light"] == pytest.approx(1.0, abs=0.01)


def test_the_reply_has_the_documented_keys() -> None:
    told = json.loads(ask(body()).body)
    assert list(told) == ["class", "label", "probabilities", "model", "digest", "request_id"]


def test_probabilities_are_those_of_the_model() -> None:
    pixels = np.full((1, *SHAPE), 77, np.uint8)
    told = json.loads(ask(body(png(77))).body)
    assert list(told["probabilities"].values()) == pytest.approx(brightness(pixels)[0].tolist(), abs=1e-7)


@pytest.mark.parametrize(
    "text",
    [
        base64.b64encode(png()).decode(),
        base64.encodebytes(png()).decode(),  # with line breaks
        "data:image/png;base64," + base64.b64encode(png()).decode(),
        "DATA:;BASE64," + base64.b64encode(png()).decode(),
    ],
)
def test_base64_may_have_line_breaks_or_be_a_data_url(text: str) -> None:
    assert ask(json.dumps({"image": text}).encode()).status == 200


@pytest.mark.parametrize("headers", [[], [(b"content-type", b"Application/JSON; charset=utf-8")]])
def test_a_request_without_a_type_is_taken_for_json(headers: list[tuple[bytes, bytes]]) -> None:
    assert ask(body(), headers=headers).status == 200


def test_the_seeds_placeholder_is_told_what_to_send() -> None:
    refusal = refused(b'{"image": "base64_encoded_image_data"}')
    assert refusal.code == "bad_base64"
    assert "'_' at position 6" in refusal.detail
    assert "base64 -w0 FILE" in refusal.detail


@pytest.mark.parametrize("content", [b"", b"{", b"image", b'{"image": "abc"', b"\xff\xfe"])
def test_what_is_no_json_is_a_bad_request(content: bytes) -> None:
    refusal = refused(content)
    assert refusal.code == "bad_json"
    assert "base64 -w0 FILE" in refusal.detail


@pytest.mark.parametrize(
    ("content", "fields"),
    [
        ({}, ["image"]),
        ({"images": "x"}, ["image", "images"]),
        ({"image": 5}, ["image"]),
        ({"image": None}, ["image"]),
        ({"image": ""}, ["image"]),
        ({"image": ["x"], "extra": 1}, ["image", "extra"]),
        ({"image": float("nan")}, ["image"]),
        ([], [""]),
        ("text", [""]),
    ],
)
def test_json_that_is_no_request_is_told_every_fault(content: object, fields: list[str]) -> None:
    refusal = refused(json.dumps(content).encode())
    assert refusal.code == "invalid_request"
    assert [error.field for error in refusal.errors] == fields


@pytest.mark.parametrize("text", ["a", "abc", "a===", "data:image/png,abc", "data:image/png;base64", "äöü="])
def test_what_is_no_base64_is_told_so(text: str) -> None:
    assert refused(json.dumps({"image": text}).encode()).code == "bad_base64"


@pytest.mark.parametrize("content", [b"hello", b"\x89PNG\r\n\x1a\n", png()[:-20], b"<svg/>", b"%PDF-1.4"])
def test_what_is_no_image_is_told_so(content: bytes) -> None:
    refusal = refused(body(content))
    assert refusal.code == "bad_image"
    assert "PNG, JPEG" in refusal.detail


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_decompression_bomb_is_refused_by_its_header() -> None:
    refusal = refused(body(header_of_a_bomb(13_000, 13_000)))  # there is nothing behind the header to decode
    assert refusal.code == "image_too_large"
    assert "13000 x 13000" in refusal.detail


@pytest.mark.parametrize(("pixels", "code"), [(24, None), (23, "image_too_large")])
def test_the_pixel_limit_is_the_specs(pixels: int, code: str | None) -> None:
    limits = LimitsSpec(max_image_pixels=pixels)
    if code is None:
        assert ask(body(), limits=limits).status == 200
    else:
        assert refused(body(), limits=limits).code == code


@pytest.mark.parametrize("spare", [0, -1])
def test_the_body_limit_is_the_specs(spare: int) -> None:
    limits = LimitsSpec(max_body_bytes=len(body()) + spare)
    if spare < 0:
        assert refused(body(), limits=limits).code == "body_too_large"
    else:
        assert ask(body(), limits=limits).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        [(b"content-type", b"application/x-www-form-urlencoded")],
        [(b"content-type", b"image/png")],
        [(b"content-type", b"application/json"), (b"content-encoding", b"gzip")],
    ],
)
def test_other_media_types_are_refused_unread(headers: list[tuple[bytes, bytes]]) -> None:
    refusal = refused(b"", headers=headers)
    assert refusal.code == "unsupported_media_type"
    assert (b"connection", b"close") in refusal.headers


@pytest.mark.parametrize(
    ("size", "padding", "on_reader"),
    [((20, 20), 0, False), ((400, 400), 0, True), ((20, 20), INLINE_BODY_BYTES, True)],
)
def test_what_takes_long_to_decode_is_decoded_on_another_thread(
    size: tuple[int, int], padding: int, on_reader: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []

    def noting(*arguments: Any) -> Any:
        threads.append(threading.current_thread().name)
        return read_image(*arguments)

    monkeypatch.setattr(module, "read_image", noting)
    content = body(png(size=size)).replace(b"{", b"{" + b" " * padding)
    assert ask(content).status == 200
    assert threads[-1].startswith("reader") == on_reader


def test_when_the_model_fails_its_reason_is_told_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    def broken(inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        raise ArithmeticError("no luck today")

    refusal = refused(body(), slot=Slot(INFO, broken))
    assert refusal.code == "prediction_failed"
    assert "no luck today" in refusal.detail
    assert "the-id" in caplog.text


def test_an_answer_that_is_not_finite_is_never_sent() -> None:
    def nan(inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        return np.full((len(inputs), 2), np.nan, np.float32)

    assert refused(body(), slot=Slot(INFO, nan)).code == "prediction_failed"


def test_pixels_are_those_of_the_shared_decoder() -> None:
    from dlhpc.data.decode import decode_image

    content = png(90, (17, 9), "RGB", "JPEG")
    assert np.array_equal(read_image(body(content), SHAPE, MANY), decode_image(content, SHAPE))
