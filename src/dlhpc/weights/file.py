"""Named arrays in one safetensors file. The bytes that were hashed are the bytes that are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from dlhpc.errors import IntegrityError
from dlhpc.files import write_atomic
from dlhpc.weights.init import Weights


def to_bytes(arrays: Weights, metadata: dict[str, str] | None = None) -> bytes:
    """Serialise; equal arrays give equal bytes."""
    content: bytes = save({name: np.asarray(arrays[name], order="C") for name in sorted(arrays)}, metadata=metadata)
    return content


def from_bytes(content: bytes, where: str) -> Weights:
    """Parse; `where` names the file in the error. Raises IntegrityError when the bytes are not safetensors."""
    try:
        return dict(load(content))
    except (SafetensorError, ValueError, KeyError) as error:
        raise IntegrityError(f"{where}: not a readable safetensors file: {error}") from error


def write_file(path: Path, arrays: Weights) -> None:
    """Write atomically."""
    write_atomic(path, to_bytes(arrays))


def read_file(path: Path) -> Weights:
    """Read one file of named arrays."""
    return from_bytes(path.read_bytes(), str(path))
