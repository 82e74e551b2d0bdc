"""The bodies of `POST /predict`: JSON, an image file as it is, or a form; what they ask for, and the pixels of it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ValidationError

from dlhpc.data.decode import ImageTooLargeError, decode_image
from dlhpc.errors import DataError
from dlhpc.serving.exchange import Refusal, Request, check_plain
from dlhpc.serving.form_data import HOW_TO_POST, boundary_of, form_parts
from dlhpc.spec.wire import (
    HOW_TO_SEND,
    FieldError,
    ImagesRequest,
    PixelsRequest,
    PredictRequest,
    decode_image_text,
)

Pixels = npt.NDArray[Any]
"""(H, W, C): uint8, or float32 in 0..1."""
Shape = tuple[int, int, int]
Source = bytes | str | Pixels
"""An image as it came: a file's bytes, these as base64, or numbers that are not looked at yet."""
Kind = Literal["json", "file", "form"]

EXPECTED: Final = '{"image": "<base64>"}, {"images": ["<base64>", ...]} or {"pixels": [[[...]]]}'
_KINDS: Final[dict[bytes, Kind]] = {
    b"application/json": "json",
    b"text/json": "json",
    b"application/octet-stream": "file",
    b"image/png": "file",
    b"image/jpeg": "file",
    b"image/jpg": "file",
    b"image/gif": "file",
    b"image/bmp": "file",
    b"image/x-ms-bmp": "file",
    b"image/webp": "file",
    b"multipart/form-data": "form",
}
_MEMBERS: Final[dict[bytes, type[BaseModel]]] = {
    b"image": PredictRequest,
    b"images": ImagesRequest,
    b"pixels": PixelsRequest,
    b"range": PixelsRequest,
}
"""First key of a JSON body -> what it is then. Rows of a table will be one more."""
MOST_FAULTS: Final = 20
"""With more of them a body is something else altogether."""
TOLD: Final = 80
"""Characters of a client's own words that are sent back."""
_FIRST_KEY: Final = re.compile(rb'\s*\{\s*"(\w{1,20})"')


class Form(NamedTuple):
    """How a body is to be read."""

    kind: Kind
    boundary: str = ""


class Asked(NamedTuple):
    """What a body asks for."""

    sources: Sequence[Source]
    is_many: bool
    """Whether the answer is a list; it may have one entry."""
    field: str
    """What a fault of the first image is told of."""
    range: tuple[float, float] = (0.0, 255.0)
    """Black and white, where the sources are numbers."""


_JSON: Final = Form("json")


def form_of(request: Request) -> Form:
    """How a request's body is to be read; one that does not say is taken for JSON. Refusal(415) for other types."""
    check_plain(request)
    given = request.only(b"content-type")
    if given is None or given == b"application/json":
        return _JSON
    kind = _KINDS.get(given.partition(b";")[0].strip().lower())
    text = given.decode("latin-1")
    if kind is None:
        raise Refusal(
            "unsupported_media_type",
            f"content-type {text[:200]!r}: expected application/json with {EXPECTED}, an image/png, image/jpeg, "
            f"image/gif, image/bmp, image/webp or application/octet-stream file, or multipart/form-data; {HOW_TO_SEND}",
            close=True,
        )
    return Form(kind, boundary_of(text)) if kind == "form" else Form(kind)


def asked(form: Form, body: bytes, shape: Shape, most: int) -> Asked:
    """What a body asks for, not decoded yet; `shape` is the model's, `most` the number of images that are taken.

    Raises Refusal, which says what is wrong with the body as a whole.
    """
    match form.kind:
        case "json":
            return _from_json(body, shape, most)
        case "file":
            return Asked([body], False, "image")
        case "form":
            return _from_form(form_parts(body, form.boundary, most))


def read_image(source: Source, field: str, shape: Shape, max_pixels: int) -> Pixels:
    """Pixels of a file's bytes or of their base64. Raises Refusal, which says what is wrong with `field`."""
    assert not isinstance(source, np.ndarray)
    try:
        content = decode_image_text(source) if isinstance(source, str) else source
    except ValueError as error:
        raise Refusal("bad_base64", f"{field}: {error}") from error
    try:
        return decode_image(content, shape, max_pixels=max_pixels)
    except ImageTooLargeError as error:
        raise Refusal("image_too_large", str(error)) from error
    except DataError as error:
        raise Refusal("bad_image", f"{field}: {error}; {HOW_TO_SEND}") from error


def scaled(numbers: npt.NDArray[Any], field: str, span: tuple[float, float]) -> Pixels:
    """Numbers between `span`'s black and white as pixels: uint8 where they are whole numbers in 0..255, otherwise
    float32 in 0..1. Raises Refusal for a number that is none, or is not between them."""
    low, high = span
    is_inside = (numbers >= low) & (numbers <= high)  # false for NaN
    if not is_inside.all():
        place = tuple(int(index) for index in np.argwhere(~is_inside)[0])
        raise Refusal(
            "bad_pixels",
            f"{field}: {numbers[place]} at {list(place)} is not within range {low:g}..{high:g}",
        )
    if span == (0.0, 255.0) and (numbers.dtype.kind in "iu" or (numbers == np.floor(numbers)).all()):
        return numbers.astype(np.uint8)
    return ((numbers.astype(np.float64) - low) / (high - low)).clip(0.0, 1.0).astype(np.float32)


def pixels_of(asked: Asked, index: int, shape: Shape, max_pixels: int) -> Pixels:
    """Pixels of one of the images. Raises Refusal."""
    source = asked.sources[index]
    field = f"{asked.field}.{index}" if asked.is_many else asked.field
    if isinstance(source, np.ndarray):
        return scaled(source, field, asked.range)
    return read_image(source, field, shape, max_pixels)


def _from_json(body: bytes, shape: Shape, most: int) -> Asked:
    first = b"image" if body.startswith(b'{"image":') else None
    if first is None:
        match = _FIRST_KEY.match(body)
        first = match[1] if match is not None else b"image"
    try:
        request = _MEMBERS.get(first, PredictRequest).model_validate_json(body)
    except ValidationError as error:
        raise problem_of(error, body, f"{EXPECTED}: {HOW_TO_SEND}") from error
    match request:
        case PredictRequest():
            return Asked([request.image], False, "image")
        case ImagesRequest():
            check_count(len(request.images), most)
            return Asked(request.images, True, "images")
        case PixelsRequest():
            return _from_pixels(request, shape, most)
    raise AssertionError(f"{type(request)} is not among the members")


def check_count(count: int, most: int) -> None:
    """Refusal when there are more images than are taken at a time."""
    if count > most:
        raise Refusal("too_many_images", f"{count} images came; at most {most} are taken: send fewer at a time")


def _from_pixels(request: PixelsRequest, shape: Shape, most: int) -> Asked:
    low, high = request.range
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise _wrong("range", f"[{low:g}, {high:g}] came, expected [black, white], such as [0, 255] or [0, 1]")
    check_numbers(request.pixels, "pixels", _expected(shape))
    try:
        numbers = np.array(request.pixels)
    except ValueError as error:
        raise Refusal("bad_pixels", f"pixels: the lists are of unequal lengths; {_expected(shape)}") from error
    if numbers.dtype.kind not in "iuf":
        raise Refusal("bad_pixels", f"pixels: there are numbers of more than 64 bits; {_expected(shape)}")
    plain = (shape, shape[:2]) if shape[2] == 1 else (shape,)
    if numbers.shape in plain:
        return Asked([numbers.reshape(shape)], False, "pixels", request.range)
    if numbers.shape[1:] in plain and len(numbers):
        check_count(len(numbers), most)
        return Asked(list(numbers.reshape(-1, *shape)), True, "pixels", request.range)
    raise Refusal("bad_pixels", f"pixels: an array of shape {list(numbers.shape)} came; {_expected(shape)}")


def check_numbers(values: list[Any], field: str, expected: str) -> None:
    """Refusal for anything but numbers in lists, before numpy makes room for texts as long as the longest of them."""
    kinds = set(map(type, values))
    if kinds == {list}:
        for each in values:
            check_numbers(each, field, expected)
    elif not kinds <= {int, float}:
        names = {list: "lists", str: "text", bool: "true or false", dict: "objects", type(None): "null"}
        came = " and ".join(sorted(names.get(kind, "numbers") for kind in kinds))
        raise Refusal("bad_pixels", f"{field}: {came} came in one list; {expected}")


def _expected(shape: Shape) -> str:
    flat = f" or {list(shape[:2])}" if shape[2] == 1 else ""
    return f"expected numbers in lists of shape {list(shape)}{flat}, or several of these"


def _from_form(parts: list[tuple[str, bytes]]) -> Asked:
    names = {name for name, _ in parts}
    contents = [content for _, content in parts]
    if names == {"images"}:
        return Asked(contents, True, "images")
    if names == {"image"} and len(parts) == 1:
        return Asked(contents, False, "image")
    came = ", ".join(repr(name[:40]) for name, _ in parts[:5]) + (", ..." if len(parts) > 5 else "")
    message = f"the form has {came or 'no parts'}; expected one file named image, or several named images"
    raise _wrong("", message, form=True)


def _wrong(field: str, message: str, *, form: bool = False) -> Refusal:
    told = f"{field}: {message}" if field else message
    how = HOW_TO_POST if form else f"Expected {EXPECTED}"
    return Refusal("invalid_request", f"{told}. {how}", errors=[FieldError(field=field, message=message)])


def problem_of(error: ValidationError, body: bytes, expected: str) -> Refusal:
    """The refusal of a body that is not what is `expected`, with all that is wrong with it."""
    if error.error_count() > MOST_FAULTS:  # each would be described
        message = f"there are {error.error_count()} faults in it"
        fault = FieldError(field="", message=message)
        return Refusal("invalid_request", f"{message}. Expected {expected}", errors=[fault])
    faults = error.errors(include_url=False, include_input=False)
    if faults[0]["type"] == "json_invalid":
        what = faults[0]["msg"] if body else "it is empty"
        return Refusal("bad_json", f"{what}; expected {expected}")
    errors = [FieldError(field=".".join(map(str, fault["loc"]))[:TOLD], message=fault["msg"]) for fault in faults]
    told = "; ".join(f"{each.field or 'body'}: {each.message}" for each in errors)
    return Refusal("invalid_request", f"{told}. Expected {expected}", errors=errors)
