"""What bodies ask for: arrays of pixels, and whatever else anybody may send."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlhpc.serving.bodies import Asked, Form, asked, form_of, pixels_of
from dlhpc.serving.exchange import Refusal, Request
from tests.serving.asgi import SHAPE, png, receiving

MANY = 10**6
JSON = Form("json")


def pixels(values: Any, shape: tuple[int, int, int] = SHAPE, **more: Any) -> np.ndarray[Any, Any]:
    """The pixels of an array that is sent."""
    body = json.dumps({"pixels": values, **more}).encode()
    return pixels_of(asked(JSON, body, shape, 8), 0, shape, MANY)


def refused(values: Any, **more: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        pixels(values, **more)
    return caught.value


WHOLE = np.arange(24).reshape(SHAPE)


def test_whole_numbers_up_to_255_stay_as_they_are() -> None:
    for values in (WHOLE.tolist(), WHOLE.astype(float).tolist(), WHOLE[:, :, 0].tolist()):
        assert pixels(values).dtype == np.uint8
        assert np.array_equal(pixels(values), WHOLE)


def test_others_are_floats_between_black_and_white() -> None:
    halves = pixels((WHOLE / 2).tolist())
    assert halves.dtype == np.float32
    assert np.allclose(halves, WHOLE / 510, atol=1e-7)
    assert np.allclose(pixels((WHOLE - 12).tolist(), range=[-12, 11]), WHOLE / 23, atol=1e-7)
    assert np.array_equal(pixels(np.ones(SHAPE).tolist(), range=[0, 1]), np.ones(SHAPE))
    assert pixels(np.ones(SHAPE).tolist(), range=[0, 1]).dtype == np.float32


def test_with_several_channels_all_dimensions_are_there() -> None:
    assert pixels(np.zeros((2, 2, 3)).tolist(), (2, 2, 3)).shape == (2, 2, 3)
    assert asked(JSON, json.dumps({"pixels": np.zeros((5, 2, 2, 3)).tolist()}).encode(), (2, 2, 3), 8).is_many
    with pytest.raises(Refusal, match=r"shape \[2, 2\] came; expected numbers in lists of shape \[2, 2, 3\], or"):
        pixels(np.zeros((2, 2)).tolist(), (2, 2, 3))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([], r"shape \[0\]"),
        ([[]], r"shape \[1, 0\]"),
        (np.zeros((4, 6, 3)).tolist(), r"shape \[4, 6, 3\] came; expected numbers in lists of shape \[4, 6, 1\] or"),
        (np.zeros((0, *SHAPE)).tolist(), r"shape \[0\]"),
        ([[0], [0, 0]], "unequal lengths"),
        ([0, [0]], "lists and numbers"),
        ([["0" * 6]], "text"),
        ([[True]], "true or false"),
        ([[None]], "null"),
        ([[{}]], "objects"),
        ([[2**70] * 6] * 4, "64 bits"),
        ([[float("nan")] * 6] * 4, r"nan at \[0, 0, 0\] is not within range 0..255"),
        ([[float("inf")] * 6] * 4, "inf at"),
        ([[0.0] * 5 + [-0.5]] * 4, r"-0.5 at \[0, 5, 0\]"),
        ([[0] * 5 + [256]] * 4, r"256 at \[0, 5, 0\]"),
    ],
)
def test_what_is_no_array_of_the_models_size_is_told_so(values: Any, said: str) -> None:
    refusal = refused(values)
    assert refusal.code == "bad_pixels"
    assert refusal.status == 422
    with pytest.raises(Refusal, match=said):
        raise refusal


def test_a_value_outside_the_range_that_was_given_is_refused() -> None:
    assert "1.5 at [0, 0, 0] is not within range 0..1" in refused(np.full(SHAPE, 1.5).tolist(), range=[0, 1]).detail


@pytest.mark.parametrize("span", [[1, 0], [0, 0], [0, float("inf")], [float("nan"), 1]])
def test_a_range_that_is_none_is_refused(span: list[float]) -> None:
    assert refused(WHOLE.tolist(), range=span).errors[0].field == "range"


def test_a_long_text_among_many_short_ones_takes_no_room_for_each() -> None:
    assert refused([["x" * 10_000_000, *["y"] * 100_000]]).code == "bad_pixels"  # numpy would want 4 TB


def test_the_first_key_tells_what_a_body_is_wherever_the_others_stand() -> None:
    body = json.dumps({"range": [0, 1], "pixels": np.ones(SHAPE).tolist()}).encode()
    assert asked(JSON, b" \n" + body, SHAPE, 8).field == "pixels"
    assert asked(JSON, b' { "images":["x"]}', SHAPE, 8) == Asked(("x",), True, "images")


@pytest.mark.parametrize("type", ["image/png", "application/octet-stream"])
def test_a_files_bytes_are_one_image(type: str) -> None:
    request = Request("POST", "/predict", [(b"content-type", type.encode())], receiving([]), "i")
    assert asked(form_of(request), png(), SHAPE, 8) == Asked([png()], False, "image")


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.sampled_from(["image", "x"]), inner, max_size=3),
    max_leaves=20,
)
KEYS = st.sampled_from(["image", "images", "pixels", "range", "rows", ""])
BODIES = st.one_of(
    st.binary(max_size=60),
    st.dictionaries(KEYS, JSON_VALUES, max_size=3).map(lambda value: json.dumps(value).encode()),
    st.lists(JSON_VALUES, max_size=3).map(lambda value: json.dumps(value).encode()),
    st.tuples(st.just(b"--b\r\n"), st.binary(max_size=40), st.just(b"\r\n--b--")).map(b"".join),
    st.binary(max_size=40).map(
        lambda data: b'--b\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n' + data + b"\r\n--b--"
    ),
    st.tuples(st.sampled_from([png()[:30], png(format="GIF"), png(format="WEBP")]), st.binary(max_size=40)).map(
        b"".join
    ),
)
FORMS = st.sampled_from([JSON, Form("file"), Form("form", "b")])


def outcome(form: Form, body: bytes) -> tuple[list[np.ndarray[Any, Any]], int]:
    """The pixels that a body asks for, and the status."""
    try:
        what = asked(form, body, SHAPE, 2)
        return [pixels_of(what, index, SHAPE, MANY) for index in range(len(what.sources))], 200
    except Refusal as refusal:
        return [], refusal.status


@settings(max_examples=150)
@given(FORMS, BODIES)
def test_whatever_comes_is_pixels_or_a_refusal(form: Form, body: bytes) -> None:
    every, status = outcome(form, body)
    assert status in {200, 400, 413, 422}
    assert len(every) <= 2
    for each in every:
        assert each.shape == SHAPE
        assert each.dtype == np.uint8 or (0 <= each.min() <= each.max() <= 1 and each.dtype == np.float32)


@given(st.binary(max_size=60))
def test_whatever_type_comes_is_read_or_refused(text: bytes) -> None:
    request = Request("POST", "/predict", [(b"content-type", text)], receiving([]), "i")
    with contextlib.suppress(Refusal):
        form_of(request)
