"""Weights that others trained: a safetensors state_dict that fits a run's model becomes an artifact."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from dlhpc.errors import NotFoundError, UsageError
from dlhpc.spec.model import ModelSpec
from dlhpc.weights.file import from_bytes
from dlhpc.weights.init import Weights
from dlhpc.weights.layout import Place, layout
from dlhpc.weights.table import param_table

Naming = Literal["canonical", "flax", "torch"]
"""Whose names and axes: the canonical ones, which are Flax's too, or those of a PyTorch state_dict."""

_PICKLED = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt")


def read_foreign(path: Path) -> Weights:
    """The tensors of a safetensors file. Pickled files are refused, whatever they are called: reading runs code."""
    if not path.is_file():
        raise NotFoundError(f"{path}: no such file")
    content = path.read_bytes()
    # A pickle begins with its protocol, a file of torch.save with the mark of a zip archive.
    if path.suffix.lower() in _PICKLED or content[:1] == b"\x80" or content[:4] == b"PK\x03\x04":
        raise UsageError(
            f"{path}: holds pickled Python, which can run any code when it is read, so dlhpc never reads it. Where you "
            "trust it, convert it: safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'x.safetensors')"
        )
    return from_bytes(content, str(path))


def canonical_weights(
    model: ModelSpec, arrays: Weights, where: str, naming: Naming = "canonical", names: Mapping[str, Any] | None = None
) -> Weights:
    """A resolved model's weights out of a state_dict, under canonical names, in canonical axes.

    `naming` says whose names and axes the file has; `names` maps names of the file to canonical ones, or to those of
    `naming`. float16 becomes float32, as bfloat16 did when the file was read. Raises UsageError that tells every tensor
    that is missing, left over, misshapen or no floating point, and every entry of `names` that fits nothing.
    """
    table = param_table(model)
    places = layout("torch" if naming == "torch" else "flax", table).places
    shapes = {row.name: row.shape for row in table}
    targets = {each: place for place in places for each in (place.canonical, place.name)}
    by_name = {place.name: place for place in places}
    problems = _map_problems(names or {}, arrays, targets)
    found: dict[str, tuple[str, Place]] = {}
    for source in arrays:
        target = (names or {}).get(source, source)
        place = targets.get(target) if source in (names or {}) else by_name.get(source)
        if place is None:
            if source not in (names or {}):
                problems.append(f"'{source}' {arrays[source].shape} is left over: the model has no such tensor")
        elif place.canonical in found:
            problems.append(f"'{source}' and '{found[place.canonical][0]}' are both to be '{place.canonical}'")
        else:
            found[place.canonical] = (source, place)
    for place in places:
        expected = place.framework_shape(shapes[place.canonical])
        if place.canonical not in found:
            problems.append(f"'{place.name}' is missing, expected {expected}")
            continue
        source, _ = found[place.canonical]
        array = arrays[source]
        if array.shape != expected:
            problems.append(f"'{source}' has shape {array.shape}, expected {expected}")
        elif not np.issubdtype(array.dtype, np.floating):
            problems.append(f"'{source}' has type {array.dtype}, expected floating point")
    if problems:
        raise UsageError("\n  ".join([f"{where} does not fit the model:", *problems]))
    return {name: _widened(place.to_canonical(arrays[source])) for name, (source, place) in found.items()}


def _map_problems(names: Mapping[str, Any], arrays: Weights, targets: Mapping[str, Place]) -> list[str]:
    absent = [f"the map names '{name}', which the file has not" for name in names if name not in arrays]
    return absent + [
        f"the map sends '{name}' to {target!r}, which the model has not"
        for name, target in names.items()
        if not isinstance(target, str) or target not in targets
    ]


def _widened(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return array.astype(np.float32) if array.dtype == np.float16 else array
