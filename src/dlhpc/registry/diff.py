"""The difference of two versions: what was asked for, what came of it, and how far their weights lie apart."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dlhpc.registry.manifest import WEIGHTS_FILE, Manifest
from dlhpc.registry.reader import Reader
from dlhpc.weights.file import from_bytes
from dlhpc.weights.init import Weights

ABSENT = "(absent)"


@dataclass(frozen=True)
class Change:
    """A value that differs; `(absent)` where one of the two has none of that name."""

    key: str
    a: Any
    b: Any


@dataclass(frozen=True)
class MetricChange:
    """A metric of both versions, or of one (the other is None)."""

    name: str
    a: float | None
    b: float | None

    @property
    def difference(self) -> float | None:
        """b - a."""
        return None if self.a is None or self.b is None else self.b - self.a


@dataclass(frozen=True)
class TensorChange:
    """A tensor of both versions, or of one (the other's numbers are None)."""

    name: str
    shape_a: tuple[int, ...] | None
    shape_b: tuple[int, ...] | None
    norm_a: float | None
    """Euclidean norm of all its elements."""
    norm_b: float | None
    difference: float | None
    """Norm of b - a; None where the shapes differ."""
    largest: float | None
    """Largest absolute difference of two elements."""

    @property
    def relative(self) -> float | None:
        """Norm of b - a as a part of the norm of a: 0 for equal tensors, None where a is zero or shapes differ."""
        if self.difference is None or self.norm_a is None:
            return None
        if self.difference == 0:
            return 0.0
        return self.difference / self.norm_a if self.norm_a > 0 else None


@dataclass(frozen=True)
class Difference:
    """How two versions differ. What is equal is left out, but for metrics and tensors, which are all told."""

    a: str
    """Digest of the first version."""
    b: str
    spec: tuple[Change, ...]
    """Settings of the runs, by dotted key."""
    metrics: tuple[MetricChange, ...]
    environment: tuple[Change, ...]
    origin: tuple[Change, ...]
    """Classes, data, code, parents, preprocessing."""
    files: tuple[Change, ...]
    """Digest and size of each file that differs."""
    tensors: tuple[TensorChange, ...] | None
    """None when the weights were not to be read."""

    def canonical(self) -> dict[str, Any]:
        """As JSON values."""
        fields = asdict(self)
        fields["metrics"] = [{**asdict(metric), "difference": metric.difference} for metric in self.metrics]
        if self.tensors is not None:
            fields["tensors"] = [
                {key: _finite(value) for key, value in {**asdict(tensor), "relative": tensor.relative}.items()}
                for tensor in self.tensors
            ]
        return fields


def diff(registry: Reader, a: str, b: str, *, weights: bool = True) -> Difference:
    """Compare two references; without `weights` the manifests alone are read.

    Raises what Registry.read raises. All that is compared is verified.
    """
    digests = registry.resolve(a), registry.resolve(b)
    manifests = tuple(registry.manifest(f"sha256:{digest}") for digest in digests)
    one, two = (manifest.canonical() for manifest in manifests)
    tensors = None
    if weights:
        read = [from_bytes(registry.read(f"sha256:{digest}")[1][WEIGHTS_FILE], digest) for digest in digests]
        tensors = tuple(_tensors(*read))
    origin = ("classes", "preprocessing", "inputs", "outputs", "data_fingerprint", "code", "parents")
    return Difference(
        a=digests[0],
        b=digests[1],
        spec=_changes(flatten(one["run"]), flatten(two["run"])),
        metrics=_metrics(*manifests),
        environment=_changes(one["environment"], two["environment"]),
        origin=_changes({key: one[key] for key in origin}, {key: two[key] for key in origin}),
        files=_changes(one["files"], two["files"]),
        tensors=tensors,
    )


def flatten(fields: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of nested mappings, by dotted key; an empty mapping is a leaf."""
    flat: dict[str, Any] = {}
    for key, value in fields.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _changes(a: dict[str, Any], b: dict[str, Any]) -> tuple[Change, ...]:
    pairs = ((key, a.get(key, ABSENT), b.get(key, ABSENT)) for key in sorted(a.keys() | b.keys()))
    return tuple(Change(*pair) for pair in pairs if pair[1] != pair[2])


def _metrics(a: Manifest, b: Manifest) -> tuple[MetricChange, ...]:
    names = sorted(a.metrics.keys() | b.metrics.keys())
    return tuple(MetricChange(name, a.metrics.get(name), b.metrics.get(name)) for name in names)


def _tensors(a: Weights, b: Weights) -> list[TensorChange]:
    return [_tensor(name, a.get(name), b.get(name)) for name in sorted(a.keys() | b.keys())]


def _tensor(name: str, a: np.ndarray[Any, Any] | None, b: np.ndarray[Any, Any] | None) -> TensorChange:
    difference = largest = None
    if a is not None and b is not None and a.shape == b.shape:
        apart = b.astype(np.float64) - a.astype(np.float64)
        difference, largest = _norm(apart), float(np.abs(apart).max(initial=0.0))
    return TensorChange(
        name=name,
        shape_a=None if a is None else a.shape,
        shape_b=None if b is None else b.shape,
        norm_a=None if a is None else _norm(a),
        norm_b=None if b is None else _norm(b),
        difference=difference,
        largest=largest,
    )


def _finite(value: Any) -> Any:
    """The value; a text for what JSON has no number for."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _norm(values: np.ndarray[Any, Any]) -> float:
    flat = values.astype(np.float64).ravel()
    return math.sqrt(float(flat @ flat))
