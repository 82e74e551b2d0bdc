"""The fault table, bodies: JSON, base64, arrays, forms, types and sizes."""

from __future__ import annotations

import json

import pytest

from tests.faults.conftest import MOST_BYTES
from tests.faults.raw import Told, asked, chunked, request
from tests.faults.server import Running
from tests.serving.asgi import body, png

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(600)]

LONGEST_PROBLEM = 8_000
"""Bytes of a problem document: what is wrong with a body is told, and not the body."""
PIXELS = [[0] * 8 for _ in range(8)]


def refused(server: Running, sent: bytes, status: int, code: str) -> Told:
    """The reply to a request that is refused and harms nobody."""
    with server.unharmed({("/predict", status): 1}):
        told = asked(server.port, sent)
        assert (told.status, told.code) == (status, code), told
        assert len(told.body) < LONGEST_PROBLEM
        assert told.json["request_id"] == told.header("x-request-id")
    return told


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "bad_json"),
        (b"{", "bad_json"),
        (b'{"image": "', "bad_json"),
        (b"\0\0\0\0", "bad_json"),
        (b'{"image": "\xff"}', "bad_json"),
        (b'{"image": "\\ud800"}', "bad_json"),
        (b"\xef\xbb\xbf{}", "bad_json"),
        (b"[" * 100_000, "bad_json"),
        (b'{"pixels": ' + b"[" * 100_000, "bad_json"),
        (b'{"a":' * 50_000, "bad_json"),
    ],
    ids=["empty", "cut", "cut text", "nulls", "no UTF-8", "lone surrogate", "byte order mark", "nested lists",
         "nested pixels", "nested objects"],
)  # fmt: skip
def test_bad_json(server: Running, content: bytes, code: str) -> None:
    refused(server, request(content), 400, code)


@pytest.mark.parametrize(
    "content",
    [
        b"{}", b"null", b"[]", b'"text"', b"5", b'{"image": 5}', b'{"image": null}', b'{"image": ""}',
        b'{"picture": "x"}', b'{"image": "eA==", "more": 1}', b'{"images": []}', b'{"images": "eA=="}',
        b'{"images": [5]}', b'{"pixels": 5}', b'{"pixels": [[1]], "range": [1, 0]}',
        b'{"pixels": [[1]], "range": [0, NaN]}',
        b"{" + b",".join(b'"k%d":0' % n for n in range(25_000)) + b"}",
        b'{"images": [' + b",".join([b"5"] * 100_000) + b"]}",
    ],
)  # fmt: skip
def test_a_body_of_another_shape(server: Running, content: bytes) -> None:
    told = refused(server, request(content), 422, "invalid_request")
    assert told.json["errors"]


@pytest.mark.parametrize(
    "text",
    ["base64_encoded_image_data", "ä", "A", "AAAA=AAA", "data:image/png,AAAA", "A" * 9_999 + "!", "A " * 99_999],
)
def test_bad_base64(server: Running, text: str) -> None:
    refused(server, request(json.dumps({"image": text}).encode()), 422, "bad_base64")


@pytest.mark.parametrize(
    "pixels",
    [
        "[]", "[[]]", "[[1, 2], [3]]", "[[1, 2], [3, 4]]", json.dumps([PIXELS] * 2 + [PIXELS[1:]]),
        json.dumps([[["x"]] * 8] * 8), json.dumps([[True] * 8] * 8), json.dumps([[None] * 8] * 8),
        json.dumps(PIXELS).replace("0", "NaN", 1), json.dumps(PIXELS).replace("0", "Infinity", 1),
        json.dumps(PIXELS).replace("0", "1e999", 1), json.dumps(PIXELS).replace("0", "-1", 1),
        json.dumps(PIXELS).replace("0", "256", 1), json.dumps(PIXELS).replace("0", "9" * 400, 1),
        json.dumps(PIXELS).replace("0", "9" * 100_000, 1), "[" * 90 + "1" + "]" * 90,
    ],
)  # fmt: skip
def test_arrays_of_another_type_shape_or_value(server: Running, pixels: str) -> None:
    with server.unharmed({("/predict", 422): 1} if len(pixels) < 50_000 else {("/predict", 400): 1}):
        told = asked(server.port, request(b'{"pixels": %s}' % pixels.encode()))
        assert (told.status, told.code) in {(422, "bad_pixels"), (400, "bad_json")}, told
        assert len(told.body) < LONGEST_PROBLEM


def test_a_key_that_comes_twice_counts_once(server: Running) -> None:
    text = body(png(10))[:-1] + b", " + body(png(100))[1:]
    with server.unharmed({("/predict", 200): 1}):
        assert asked(server.port, request(text)).status == 200


@pytest.mark.parametrize(
    ("content", "kind", "status", "code"),
    [
        (b"x", "text/plain", 415, "unsupported_media_type"),
        (b"x", "application/json\x00", 400, ""),
        (b"x", "multipart/form-data", 415, "unsupported_media_type"),
        (b"x", "multipart/form-data; boundary=b", 400, "bad_form"),
        (b"--b\r\n", "multipart/form-data; boundary=b", 400, "bad_form"),
        (b"--b--\r\n", "multipart/form-data; boundary=b", 422, "invalid_request"),
        (b"", "image/png", 422, "bad_image"),
        (b"x", "application/octet-stream", 422, "bad_image"),
    ],
)
def test_other_types(server: Running, content: bytes, kind: str, status: int, code: str) -> None:
    if code:
        refused(server, request(content, kind=kind), status, code)
    else:
        with server.unharmed({}):
            assert asked(server.port, request(content, kind=kind)).status == status


def test_a_compressed_body(server: Running) -> None:
    refused(server, request(b"\x1f\x8b", "content-encoding: gzip"), 415, "unsupported_media_type")


def test_more_images_than_are_taken(server: Running) -> None:
    refused(server, request(b'{"images": [%s]}' % b",".join([b'"eA=="'] * 1_000)), 413, "too_many_images")


def test_a_huge_body_is_refused_by_its_length(server: Running) -> None:
    told = refused(server, request(b"", f"content-length: {MOST_BYTES + 1}"), 413, "body_too_large")
    assert told.header("connection") == "close"


def test_a_huge_body_without_a_length_is_refused_while_it_comes(server: Running) -> None:
    content = chunked(*[b" " * 50_000] * 20)
    refused(server, request(content, "transfer-encoding: chunked"), 413, "body_too_large")
