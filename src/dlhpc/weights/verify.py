"""Named arrays from outside are compared with the table before anything is made of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from dlhpc.errors import IntegrityError
from dlhpc.weights.state_table import APPLIED, CONSUMED, state_table
from dlhpc.weights.table import Param

_SHOWN = 8


def verify_weights(table: tuple[Param, ...], arrays: Mapping[str, npt.NDArray[Any]], where: str) -> None:
    """Raise IntegrityError, naming rows, unless `arrays` is exactly the table: names, shapes, floating point."""
    _verify({row.name: row.shape for row in table}, arrays, where)


def verify_state(
    table: tuple[Param, ...], slots: tuple[str, ...], arrays: Mapping[str, npt.NDArray[Any]], where: str
) -> None:
    """Raise IntegrityError, naming rows, unless `arrays` is exactly a training state with these slots."""
    _verify({row.name: row.shape for row in state_table(table, slots)}, arrays, where)


def _verify(expected: Mapping[str, tuple[int, ...]], arrays: Mapping[str, npt.NDArray[Any]], where: str) -> None:
    problems = [
        f"'{name}' is missing, expected shape {shape}" for name, shape in expected.items() if name not in arrays
    ]
    problems += [f"'{name}' is unknown" for name in arrays if name not in expected]
    for name, shape in expected.items():
        if name in arrays:
            problems += _row_problems(name, shape, arrays[name])
    if problems:
        more = [f"and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        raise IntegrityError(f"{where} does not fit the model and optimizer: " + "; ".join(problems[:_SHOWN] + more))


def _row_problems(name: str, shape: tuple[int, ...], array: npt.NDArray[Any]) -> list[str]:
    if array.shape != shape:
        return [f"'{name}' has shape {array.shape}, expected {shape}"]
    kind = np.integer if name in (CONSUMED, APPLIED) else np.floating
    if not np.issubdtype(array.dtype, kind):
        return [f"'{name}' has type {array.dtype}, expected {'an integer' if kind is np.integer else 'floating point'}"]
    return []
