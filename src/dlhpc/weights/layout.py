"""How each framework names and turns the canonical arrays: a bijection, used for weights and optimizer slots alike.

    canonical            Flax NNX path           PyTorch parameter
    dense_0/kernel       dense_0/kernel          dense_0.weight     (in, out)          -> (out, in)
    conv_0/kernel        conv_0/kernel           conv_0.weight      (kh, kw, in, out)  -> (out, in, kh, kw)
    dense_norm_0/scale   dense_norm_0/scale      dense_norm_0.weight
    head/bias            head/bias               head.bias

No array is flattened, cut or reordered along an axis: both models flatten images over height, width, channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, assert_never

import numpy as np
import numpy.typing as npt

from dlhpc.weights.table import Param

Framework = Literal["flax", "torch"]
Array = npt.NDArray[Any]

_TORCH_AXES: dict[tuple[str, ...], tuple[int, ...]] = {
    ("out",): (0,),
    ("in", "out"): (1, 0),
    ("kh", "kw", "in", "out"): (3, 2, 0, 1),
}
_TORCH_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}


@dataclass(frozen=True)
class Place:
    """Where one canonical array lives in a framework."""

    canonical: str
    """Canonical name, such as `dense_0/kernel`."""
    name: str
    """The framework's name, such as `dense_0.weight`."""
    axes: tuple[int, ...]
    """Framework axis i is canonical axis axes[i]."""

    def to_framework(self, array: Array) -> Array:
        """An owned, C-ordered array in the framework's axis order."""
        return np.array(array.transpose(self.axes), order="C", copy=True)

    def to_canonical(self, array: Array) -> Array:
        """An owned, C-ordered array in canonical axis order."""
        return np.array(array.transpose(np.argsort(self.axes)), order="C", copy=True)

    def framework_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape in the framework of a canonical array of this shape."""
        return tuple(shape[axis] for axis in self.axes)


@dataclass(frozen=True)
class Layout:
    """The places of all rows of a table, in the table's order."""

    places: tuple[Place, ...]

    def to_framework(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Canonical names and axes -> the framework's. KeyError when a row is missing."""
        return {place.name: place.to_framework(arrays[place.canonical]) for place in self.places}

    def to_canonical(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """The framework's names and axes -> canonical. KeyError when a row is missing."""
        return {place.canonical: place.to_canonical(arrays[place.name]) for place in self.places}


def layout(framework: Framework, table: tuple[Param, ...]) -> Layout:
    """The bijection between a parameter table and one framework's arrays."""
    match framework:
        case "flax":
            return Layout(tuple(Place(row.name, row.name, tuple(range(len(row.shape)))) for row in table))
        case "torch":
            return Layout(tuple(Place(row.name, _torch_name(row), _TORCH_AXES[row.axes]) for row in table))
        case _:
            assert_never(framework)


def _torch_name(row: Param) -> str:
    *modules, leaf = row.name.split("/")
    return ".".join((*modules, _TORCH_LEAVES[leaf]))
