"""Named arrays in one safetensors file. The bytes that were hashed are the bytes that are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from dlhpc.errors import DataError, IntegrityError
from dlhpc.files import write_atomic
from dlhpc.weights.init import Weights

_TYPES: dict[str, type[np.generic]] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
"""What numpy has, by its name in the format."""


def to_bytes(arrays: Weights, metadata: dict[str, str] | None = None) -> bytes:
    """Serialise; equal arrays give equal bytes."""
    content: bytes = save({name: np.asarray(arrays[name], order="C") for name in sorted(arrays)}, metadata=metadata)
    return content


def from_bytes(content: bytes, where: str) -> Weights:
    """Parse; `where` names the file in the error. bfloat16, which numpy lacks, becomes float32 of the same values.

    Raises IntegrityError when the bytes are not safetensors, DataError for tensors of another type that numpy lacks.
    """
    try:
        views: list[tuple[str, dict[str, Any]]] = deserialize(content)  # type: ignore[no-untyped-call]
    except (SafetensorError, ValueError) as error:
        raise IntegrityError(f"{where}: not a readable safetensors file: {error}") from error
    return {name: _array(view, f"{where}: '{name}'") for name, view in views}


def _array(view: dict[str, Any], where: str) -> npt.NDArray[Any]:
    kind, data = view["dtype"], view["data"]
    if kind == "BF16":  # the upper half of a float32
        flat = (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)
    elif kind in _TYPES:
        flat = np.frombuffer(data, _TYPES[kind])
    else:
        raise DataError(f"{where} has type {kind}, expected BF16, {', '.join(_TYPES)}: convert it first")
    return flat.reshape(view["shape"])


def write_file(path: Path, arrays: Weights) -> None:
    """Write atomically."""
    write_atomic(path, to_bytes(arrays))


def read_file(path: Path) -> Weights:
    """Read one file of named arrays."""
    return from_bytes(path.read_bytes(), str(path))
