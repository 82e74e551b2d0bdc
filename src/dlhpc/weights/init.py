"""First weights of a model: a function of the seed and the parameter's name, the same for every framework."""

from __future__ import annotations

import hashlib
import math
from typing import assert_never

import numpy as np
import numpy.typing as npt

from dlhpc.weights.table import Param

Weights = dict[str, npt.NDArray[np.generic]]


def initial_weights(table: tuple[Param, ...], seed: int, dtype: npt.DTypeLike = np.float32) -> Weights:
    """Named arrays for every row. A row's values depend on the seed and its own name alone."""
    return {row.name: _draw(row, seed).astype(dtype) for row in table}


def _draw(row: Param, seed: int) -> npt.NDArray[np.float64]:
    match row.init:
        case "zeros":
            return np.zeros(row.shape)
        case "ones":
            return np.ones(row.shape)
        case "he_normal":
            return _normal(row, seed, 2.0)
        case "lecun_normal":
            return _normal(row, seed, 1.0)
        case _:
            assert_never(row.init)


def _normal(row: Param, seed: int, gain: float) -> npt.NDArray[np.float64]:
    """Normal values of variance gain / fan-in (He et al. 2015, arXiv:1502.01852; LeCun et al. 1998)."""
    key = int.from_bytes(hashlib.sha256(f"{seed}/{row.name}".encode()).digest()[:16])
    generator = np.random.Generator(np.random.Philox(key=key))
    fan_in = math.prod(size for size, axis in zip(row.shape, row.axes, strict=True) if axis != "out")
    return generator.standard_normal(row.shape) * math.sqrt(gain / fan_in)
