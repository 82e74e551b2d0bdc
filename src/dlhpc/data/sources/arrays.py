"""Images and labels from one .npz file."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dlhpc.data.source import MemorySource
from dlhpc.errors import DataError, NotFoundError
from dlhpc.spec.data import ArraysSpec

HOW = "numpy.savez(path, inputs=uint8 array (N, H, W[, C]), labels=integer array (N,))"


def open_arrays(spec: ArraysSpec, num_classes: int | None) -> MemorySource:
    """The file's arrays, checked. Nothing in it is unpickled.

    `ids` are row numbers when absent. Without `classes`, labels are their own names and there are as many classes
    as the greatest label outside the test part shows, or `num_classes` when that is more.
    Raises NotFoundError without the file, DataError for anything else than the arrays described in ArraysSpec.
    """
    path = spec.path
    arrays = _load(path)
    missing = [key for key in ("inputs", "labels") if key not in arrays]
    if missing:
        raise DataError(
            f"{path}: no array {' and '.join(map(repr, missing))}; it has {sorted(arrays) or 'none'}. Make it by {HOW}"
        )
    inputs = _inputs(path, arrays["inputs"])
    count = len(inputs)
    labels = _column(path, "labels", arrays["labels"], count, "iu")
    names = None
    if "classes" in arrays:
        names = tuple(str(name) for name in arrays["classes"].ravel())
        if arrays["classes"].ndim != 1 or len(set(names)) != len(names):
            raise DataError(f"{path}: 'classes' must be one name per label, all different; got {list(names)[:10]}")
    ids = np.arange(count, dtype=np.int64)
    if "ids" in arrays:
        given = _column(path, "ids", arrays["ids"], count, "iu")
        ids = given.astype(np.int64)
        if len(np.unique(ids)) != count or not np.array_equal(ids, given):
            raise DataError(f"{path}: 'ids' must be different for each of the {count} examples, and below 2**63")
    return MemorySource(inputs, labels, ids, names, num_classes)


def _load(path: Path) -> dict[str, npt.NDArray[Any]]:
    if not path.exists():
        raise NotFoundError(f"{path}: no such file (data.path); make it by {HOW}")
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            raise DataError(f"{path}: this is a single array (.npy); put inputs and labels in one file by {HOW}")
        with content:
            return {key: content[key] for key in content.files if key in {"inputs", "labels", "ids", "classes"}}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: not a readable .npz file: {error}. Make it by {HOW}") from error


def _inputs(path: Path, inputs: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """(N, H, W, C) from what the file holds."""
    if inputs.dtype != np.uint8:
        raise DataError(
            f"{path}: 'inputs' are {inputs.dtype}, expected uint8 pixels 0..255: "
            "scale them, for example (255 * inputs).round().astype('uint8') for values 0..1"
        )
    if inputs.ndim == 3:
        inputs = inputs[..., None]
    if inputs.ndim != 4 or 0 in inputs.shape:
        raise DataError(
            f"{path}: 'inputs' have shape {inputs.shape}, expected (N, H, W) or (N, H, W, C), none of them 0"
        )
    return inputs


def _column(path: Path, key: str, values: npt.NDArray[Any], count: int, kinds: str) -> npt.NDArray[Any]:
    """One integer per example."""
    if values.dtype.kind not in kinds or values.shape != (count,):
        raise DataError(
            f"{path}: '{key}' is {values.dtype} of shape {values.shape}, expected integers of shape ({count},), "
            "one per example of 'inputs'"
        )
    return values
