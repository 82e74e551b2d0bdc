"""Tensors of the Open Inference Protocol: what comes in JSON or behind it, and what goes out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from dlhpc.serving.bodies import Asked, Shape, check_count, check_numbers, problem_of
from dlhpc.serving.exchange import Refusal
from dlhpc.spec.oip import INPUT, OUTPUT, InferInput, InferOutput, InferRequest, OutputParameters
from dlhpc.spec.wire import FieldError

_TYPES: Final = {
    "UINT8": "<u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "<i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
"""Datatype -> what numpy calls it, little-endian as the protocol has it."""
EXPECTED: Final = '{"inputs": [{"name": "image", "datatype": "UINT8", "shape": [...], "data": [...]}]}'
_LENGTH: Final = 4
"""Bytes before each element of BYTES, which say how many it has."""


def parsed(body: bytes, json_length: bytes | None) -> tuple[InferRequest, bytes | None]:
    """The request, and the binary tensors behind it; `json_length` is the header. Refusal where they are none."""
    binary = None
    if json_length is not None:
        if not json_length.isdigit() or len(json_length) > 12 or int(json_length) > len(body):
            came = json_length[:40].decode("latin-1")
            expected = f"expected a number up to the body's {len(body)} bytes"
            raise wrong("", f"Inference-Header-Content-Length: {came!r} came, {expected}")
        body, binary = body[: int(json_length)], body[int(json_length) :]
    try:
        return InferRequest.model_validate_json(body), binary
    except ValidationError as error:
        raise problem_of(
            error, body, '{"inputs": [{"name": "image", "datatype": ..., "shape": [...], ...}]}'
        ) from error


def images_of(request: InferRequest, binary: bytes | None, shape: Shape, most: int) -> Asked:
    """What a request asks for; `shape` is the model's, `most` the number of images that are taken.

    Raises Refusal, which says what is wrong with the tensor.
    """
    (tensor,) = request.inputs
    count = tensor.shape[0]
    wanted = (count,) if tensor.datatype == "BYTES" else (count, *shape)
    if not count or (tensor.shape != wanted and (tensor.datatype != "BYTES" or tensor.shape != (count, 1))):
        expected = ", ".join(map(str, ("images", *wanted[1:])))
        raise wrong("inputs.0.shape", f"{list(tensor.shape)} came, expected [{expected}]")
    check_count(count, most)
    content = _content(tensor, binary)
    if tensor.datatype == "BYTES":
        files_in = _files(content, count) if isinstance(content, bytes) else _texts(content, count)
        return Asked(files_in, True, INPUT)
    numbers = _numbers(tensor, content).reshape(wanted)
    is_whole = numbers.dtype.kind in "iu"
    return Asked(list(numbers), True, INPUT, (0.0, 255.0) if is_whole else (0.0, 1.0))


def _content(tensor: InferInput, binary: bytes | None) -> bytes | list[Any]:
    """Where the tensor's elements are."""
    size = tensor.parameters.binary_data_size if tensor.parameters is not None else None
    if size is None:
        if binary:
            raise wrong("inputs.0", f"{len(binary)} bytes came behind the JSON; say so in parameters.binary_data_size")
        if tensor.data is None:
            raise wrong("inputs.0", "there is neither data nor parameters.binary_data_size")
        return tensor.data
    if tensor.data is not None:
        raise wrong("inputs.0", "there are both data and parameters.binary_data_size")
    if binary is None or len(binary) != size:
        came = "no Inference-Header-Content-Length" if binary is None else f"{len(binary)} bytes behind the JSON"
        raise wrong("inputs.0.parameters.binary_data_size", f"{size} is said, and there came {came}")
    return binary


def _numbers(tensor: InferInput, content: bytes | list[Any]) -> npt.NDArray[Any]:
    """The elements, flat, in the tensor's type."""
    dtype, count = np.dtype(_TYPES[tensor.datatype]), math.prod(tensor.shape)
    if isinstance(content, bytes):
        if len(content) != count * dtype.itemsize:
            raise wrong("inputs.0", f"{len(content)} bytes came, expected {count} times {dtype.itemsize}")
        return np.frombuffer(content, dtype)
    check_numbers(content, "inputs.0.data", "expected numbers, flat or nested")
    try:
        numbers = np.array(content).reshape(-1)
    except ValueError as error:
        raise wrong("inputs.0.data", "the lists are of unequal lengths") from error
    if numbers.size != count:
        raise wrong("inputs.0.data", f"{numbers.size} numbers came, expected {count}")
    if numbers.dtype.kind not in "iuf" or (dtype.kind in "iu" and numbers.dtype.kind == "f"):
        raise wrong("inputs.0.data", f"these are not all of type {tensor.datatype}")
    return numbers if dtype.kind in "iu" else numbers.astype(np.float64)  # whether they fit is looked at with the range


def _texts(values: list[Any], count: int) -> list[str]:
    """Files as base64 within JSON."""
    flat = [each[0] if isinstance(each, list) and len(each) == 1 else each for each in values]
    if len(flat) != count or not all(isinstance(each, str) for each in flat):
        raise wrong("inputs.0.data", f"expected {count} texts: each the bytes of an image file as base64")
    return flat


def _files(content: bytes, count: int) -> list[bytes]:
    """Files one after another, each behind its length."""
    files: list[bytes] = []
    place = 0
    while place + _LENGTH <= len(content) and len(files) < count:
        end = place + _LENGTH + int.from_bytes(content[place : place + _LENGTH], "little")
        if end > len(content):
            break
        files.append(content[place + _LENGTH : end])
        place = end
    if len(files) != count or place != len(content):
        raise wrong("inputs.0", f"expected {count} elements of BYTES, each behind its length in {_LENGTH} bytes")
    return files


def output(
    rows: Sequence[npt.NDArray[np.float32]], classes: Sequence[str], how: OutputParameters, *, is_binary: bool
) -> tuple[InferOutput, bytes]:
    """The output of all images, and what goes behind the JSON: nothing unless it is binary."""
    table = np.stack(rows).astype("<f4", copy=False)
    if how.classification is None:
        shape, texts = table.shape, None
        data: list[Any] = [] if is_binary else table.reshape(-1).tolist()
        content = table.tobytes() if is_binary else b""
    else:
        best = np.argsort(-table, axis=1, kind="stable")[:, : how.classification]
        texts = [
            f"{row[i]:f}:{i}:{classes[i]}" for row, places in zip(table, best.tolist(), strict=True) for i in places
        ]
        shape, data = best.shape, texts
        content = b"".join(_behind_length(text.encode()) for text in texts) if is_binary else b""
    told = InferOutput(
        name=OUTPUT,
        datatype="FP32" if texts is None else "BYTES",
        shape=shape,
        parameters={"binary_data_size": len(content)} if is_binary else None,
        data=None if is_binary else data,
    )
    return told, content


def _behind_length(element: bytes) -> bytes:
    return len(element).to_bytes(_LENGTH, "little") + element


def wrong(field: str, message: str) -> Refusal:
    """The refusal of a request with a fault at one place."""
    told = f"{field}: {message}" if field else message
    return Refusal("invalid_request", told, errors=[FieldError(field=field, message=message)])
