"""The prediction handler: what is sent, and what comes of it."""

from __future__ import annotations

import asyncio
import base64
import json
import math
import struct
import threading
import zlib
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest

from dlhpc.data.decode import decode_image
from dlhpc.serving import predict as module
from dlhpc.serving.batching import Batcher
from dlhpc.serving.bodies import Asked, pixels_of
from dlhpc.serving.exchange import Refusal, Reply, Request
from dlhpc.serving.predict import INLINE_BODY_BYTES, Predict
from dlhpc.serving.rows import Rows
from dlhpc.serving.slots import Slot
from dlhpc.spec.serving import LimitsSpec
from dlhpc.spec.wire import Failure, Prediction, PredictionsReply, PredictReply
from tests.serving.asgi import CLASSES, INFO, SHAPE, SLOT, body, brightness, png, receiving

JSON = [(b"content-type", b"application/json")]
MANY = 10**9


def handler(
    slot: Slot,
    batcher: Batcher,
    readers: Executor,
    limits: LimitsSpec = LimitsSpec(),  # noqa: B008 - frozen
) -> Predict:
    """The handler of a slot."""
    rows = Rows(slot.info.input_shape, batcher, readers, limits, lambda request: request.peer)
    return Predict(slot.info, batcher, readers, rows, limits)


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
            return await handler(slot, batcher, readers, limits)(request)

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
        ({"images": "x"}, ["images"]),
        ({"images": []}, ["images"]),
        ({"images": ["x", 5, 6]}, ["images.1"]),
        ({"images": ["x", ""]}, ["images.1"]),
        ({"images": ["x"], "image": "x"}, ["image"]),
        ({"pixels": 5}, ["pixels"]),
        ({"pixels": [], "range": [0]}, ["range.1"]),
        ({"range": [0, 1]}, ["pixels"]),
        ({"rows": []}, ["image", "rows"]),
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
        [(b"content-type", b"image/tiff")],
        [(b"content-type", b"multipart/form-data")],
        [(b"content-type", b"")],
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
        return pixels_of(*arguments)

    monkeypatch.setattr(module, "pixels_of", noting)
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
    content = png(90, (17, 9), "RGB", "JPEG")
    pixels = pixels_of(Asked([content], False, "image"), 0, SHAPE, MANY)
    assert np.array_equal(pixels, decode_image(content, SHAPE))


def form(*files: tuple[str, bytes]) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """A form of these (name, content), and its header."""
    request = httpx.Request("POST", "http://x", files=[(name, ("a.png", content)) for name, content in files])
    return request.read(), [(b"content-type", request.headers["content-type"].encode())]


@pytest.mark.parametrize("type", ["image/png", "image/jpeg", "image/gif", "IMAGE/BMP", "image/webp; q=1"])
@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_a_files_bytes_are_taken_as_they_are(type: str, format: str) -> None:
    told = ask(png(255, format=format), headers=[(b"content-type", type.encode())])
    assert PredictReply.model_validate_json(told.body).label == "light"


def test_every_way_to_send_an_image_gets_the_same_answer() -> None:
    content, pixels = png(77), np.full(SHAPE, 77)
    bodies = [
        (body(content), JSON),
        (content, [(b"content-type", b"application/octet-stream")]),
        form(("image", content)),
        (json.dumps({"pixels": pixels.tolist()}).encode(), JSON),
        (json.dumps({"pixels": pixels[:, :, 0].tolist(), "range": [0, 255]}).encode(), JSON),
    ]
    assert len({ask(sent, headers=headers).body for sent, headers in bodies}) == 1


def labels(reply: Reply) -> list[str]:
    """What each of several images was answered with: its label, or the code of its error."""
    told = PredictionsReply.model_validate_json(reply.body)
    return [each.label if isinstance(each, Prediction) else each.error.code for each in told.predictions]


def several(*contents: bytes) -> bytes:
    return json.dumps({"images": [base64.b64encode(content).decode() for content in contents]}).encode()


LIGHT, DARK = png(255), png(0)


def test_several_images_are_answered_in_their_order() -> None:
    reply = ask(several(LIGHT, DARK, DARK, LIGHT, LIGHT))
    assert labels(reply) == ["light", "dark", "dark", "light", "light"]
    assert list(json.loads(reply.body)) == ["predictions", "model", "digest", "request_id"]
    assert labels(ask(*form(("images", LIGHT), ("images", DARK)))) == ["light", "dark"]
    arrays = np.stack([np.full(SHAPE, 1.0), np.full(SHAPE, 0.0)]).tolist()
    slot = Slot(INFO, in_their_range)
    assert labels(ask(json.dumps({"pixels": arrays, "range": [0, 1]}).encode(), slot=slot)) == ["light", "dark"]
    assert labels(ask(several(LIGHT))) == ["light"]


def test_one_of_several_is_predicted_as_it_is_alone() -> None:
    several_told = json.loads(ask(several(png(33), png(99))).body)
    alone = json.loads(ask(body(png(99))).body)
    assert several_told["predictions"][1] == {key: alone[key] for key in ("class", "label", "probabilities")}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bad_image_among_several_harms_no_other() -> None:
    bad = [b"no image", header_of_a_bomb(13_000, 13_000), DARK[:-20]]
    reply = ask(several(LIGHT, *bad, DARK))
    assert labels(reply) == ["light", "bad_image", "image_too_large", "bad_image", "dark"]
    failures = [
        each for each in PredictionsReply.model_validate_json(reply.body).predictions if isinstance(each, Failure)
    ]
    assert [each.error.status for each in failures] == [422, 413, 422]
    assert not reply.has_failures
    assert labels(ask(*form(("images", b"no image"), ("images", DARK)))) == ["bad_image", "dark"]
    pixels = np.zeros((2, *SHAPE))
    pixels[0, 1, 2, 0] = 256
    assert labels(ask(json.dumps({"pixels": pixels.tolist()}).encode())) == ["bad_pixels", "dark"]


def test_when_all_are_bad_the_request_is() -> None:
    refusal = refused(several(b"no image", b"nor this"))
    assert refusal.code == "bad_image"
    assert [error.field for error in refusal.errors] == ["images.0", "images.1"]


def failing_on_dark(inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    if (inputs.reshape(len(inputs), -1).max(axis=1) == 0).any():
        raise ArithmeticError("too dark")
    return brightness(inputs)


def test_an_image_on_which_the_model_fails_harms_no_other() -> None:
    reply = ask(several(LIGHT, DARK, LIGHT), slot=Slot(INFO, failing_on_dark))
    assert labels(reply) == ["light", "prediction_failed", "light"]
    assert reply.has_failures
    refusal = refused(several(DARK, b"no image"), slot=Slot(INFO, failing_on_dark))
    assert refusal.code == "prediction_failed"


@pytest.mark.parametrize(("most", "at_once"), [(2, 256), (64, 2)])
def test_more_images_than_the_spec_allows_are_refused(most: int, at_once: int) -> None:
    limits = LimitsSpec(max_images=most, max_concurrent=at_once)
    assert labels(ask(several(LIGHT, DARK), limits=limits)) == ["light", "dark"]
    three = [
        (several(LIGHT, DARK, LIGHT), JSON),
        form(("images", LIGHT), ("images", DARK), ("images", LIGHT)),
        (json.dumps({"pixels": np.zeros((3, *SHAPE)).tolist()}).encode(), JSON),
    ]
    for content, headers in three:
        assert refused(content, headers=headers, limits=limits).code == "too_many_images"


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("format", ["png", "jpeg", "gif", "webp"])
def test_a_bomb_is_refused_by_its_header_however_it_is_sent(format: str) -> None:
    bomb = BOMBS[format]
    assert refused(body(bomb)).code == "image_too_large"
    assert refused(bomb, headers=[(b"content-type", b"application/octet-stream")]).code == "image_too_large"
    content, headers = form(("image", bomb))
    assert refused(content, headers=headers).code == "image_too_large"
    assert labels(ask(several(bomb, LIGHT))) == ["image_too_large", "light"]


SIDE = 13_000
BOMBS = {
    "png": header_of_a_bomb(SIDE, SIDE),
    "jpeg": b"\xff\xd8\xff\xc0\x00\x0b\x08" + struct.pack(">HH", SIDE, SIDE) + b"\x01\x01\x11\x00\xff\xd9",
    "gif": b"GIF89a" + struct.pack("<HH3x", SIDE, SIDE) + b"," + struct.pack("<4xHHB", SIDE, SIDE, 0) + b"\x02\x00;",
    "webp": b"RIFF\x16\0\0\0WEBPVP8L\x0a\0\0\0/" + struct.pack("<I5x", SIDE - 1 | SIDE - 1 << 14),
}
"""Headers that promise many pixels; there are none."""


def test_several_images_count_as_many_and_their_pixels_as_bytes() -> None:
    request = Request("POST", "/predict", JSON, receiving([several(LIGHT, DARK, LIGHT)]), "the-id")
    told: list[int] = []
    request.admit = lambda request, more: told.append(more)
    request.hold = told.append
    with ThreadPoolExecutor(2) as threads:
        asyncio.run(on(threads, request))
    assert told == [len(several(LIGHT, DARK, LIGHT)), 2, 3 * math.prod(SHAPE)]
    assert request.weight == 3


async def on(threads: ThreadPoolExecutor, request: Request) -> Reply:
    batcher = Batcher(SLOT.predictor, threads, max_batch_size=4, max_wait_s=0.0, observe=lambda size, s: None)
    return await handler(SLOT, batcher, threads)(request)


def test_floats_and_bytes_may_come_together() -> None:
    async def scenario(threads: ThreadPoolExecutor) -> list[Reply]:
        batcher = Batcher(in_their_range, threads, max_batch_size=4, max_wait_s=0.0, observe=lambda size, s: None)
        predict = handler(Slot(INFO, in_their_range), batcher, threads)
        floats = json.dumps({"pixels": np.full(SHAPE, 0.25).tolist(), "range": [0, 1]}).encode()
        requests = [Request("POST", "/predict", JSON, receiving([each]), "i") for each in (floats, body(LIGHT)) * 2]
        return await asyncio.gather(*map(predict, requests))

    with ThreadPoolExecutor(2) as threads:
        replies = asyncio.run(scenario(threads))
    shares = [json.loads(reply.body)["probabilities"]["light"] for reply in replies]
    assert shares == pytest.approx([0.25, 1.0, 0.25, 1.0])


def in_their_range(inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    return brightness(inputs if inputs.dtype == np.uint8 else inputs * 255)
