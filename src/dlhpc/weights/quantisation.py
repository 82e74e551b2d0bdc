"""Kernels as int8 with a float32 scale per output channel; biases and norms as they are.

A kernel w (.., out) becomes q = round(w / s) in -127..127, with s = max|w| / 127 over all but the last axis: symmetric,
so zero stays zero. The file has `<name>` (int8) and `<name>:scale` (out,) instead of `<name>`. What it saves is the
file's size: weights are made float32 again before either framework sees them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dlhpc.errors import IntegrityError
from dlhpc.weights.init import Weights
from dlhpc.weights.table import Param
from dlhpc.weights.verify import verify_weights

SCALE: Final = ":scale"
_LARGEST: Final = 127


def quantise(table: tuple[Param, ...], weights: Mapping[str, npt.NDArray[Any]]) -> Weights:
    """int8 kernels with their scales, and the rest in float32."""
    arrays: Weights = {}
    for row in table:
        array = weights[row.name].astype(np.float32)
        if _is_kernel(row):
            scale = np.abs(array).max(axis=tuple(range(array.ndim - 1))) / np.float32(_LARGEST)
            scale = np.where(scale > 0, scale, np.float32(1)).astype(np.float32)
            # A subnormal scale is rounded, so that the quotient may exceed 127.
            arrays[row.name] = np.clip(np.rint(array / scale), -_LARGEST, _LARGEST).astype(np.int8)
            arrays[row.name + SCALE] = scale
        else:
            arrays[row.name] = array
    return arrays


def dequantise(table: tuple[Param, ...], arrays: Mapping[str, npt.NDArray[Any]], where: str) -> Weights:
    """Canonical float32 weights. Raises IntegrityError, naming rows, when the arrays are not those of the table."""
    rest = dict(arrays)
    for row in table:
        if _is_kernel(row):
            scale, kernel = rest.pop(row.name + SCALE, None), rest.get(row.name)
            if kernel is None or scale is None or kernel.dtype != np.int8 or scale.dtype != np.float32:
                raise IntegrityError(f"{where}: '{row.name}' is no int8 kernel with a float32 '{row.name}{SCALE}'")
            if kernel.shape != row.shape or scale.shape != row.shape[-1:]:
                raise IntegrityError(
                    f"{where}: '{row.name}' has shape {kernel.shape} and scales {scale.shape}, expected {row.shape}"
                )
            rest[row.name] = kernel.astype(np.float32) * scale
    verify_weights(table, rest, where)
    return rest


def _is_kernel(row: Param) -> bool:
    return len(row.axes) > 1
