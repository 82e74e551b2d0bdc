"""What the registry's records say of derived files (derivation.py makes them, derived.py reads them)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dlhpc.registry.manifest import FileEntry, Sha256
from dlhpc.registry.record_kinds import RemarkRecord, Text
from dlhpc.spec.base import NonNegativeFloat, PositiveFloat, PositiveInt, Spec

DerivedFormat = Literal["onnx", "stablehlo", "torch-export", "int8"]


class Parity(Spec):
    """How far the answers of a derived file are from those of the version, on its golden inputs."""

    examples: PositiveInt
    """Number of golden inputs."""
    max_absolute: NonNegativeFloat
    """Largest difference of two probabilities."""
    max_relative: NonNegativeFloat
    """The same, over the largest probability of the version's answers."""
    tolerance: PositiveFloat
    """What max_relative may be at most."""


class AccuracyChange(Spec):
    """Accuracy on the validation part of the data that the version was trained with."""

    examples: PositiveInt
    """Number of images."""
    before: Annotated[float, Field(ge=0.0, le=1.0)]
    """Of the version."""
    after: Annotated[float, Field(ge=0.0, le=1.0)]
    """Of the derived file."""

    @property
    def change(self) -> float:
        """after - before."""
        return self.after - self.before


class DerivedRecord(RemarkRecord):
    """A file in another format that was made from a version, and how well it agrees with it."""

    folder = "derived"
    kind: Literal["derived"] = "derived"
    derivation: DerivedFormat
    """The file's format."""
    backend: Literal["flax", "torch"]
    """The framework that wrote it; for int8, which needs none, the one that measured it."""
    file: FileEntry
    """The file: among the registry's blobs."""
    facts: dict[str, str]
    """What a user of the file has to know: input, output, opset, and the like."""
    toolchain: dict[str, str]
    """Versions of what wrote it and of what ran it to compare."""
    parity: Parity
    """Agreement on the golden inputs."""
    accuracy: AccuracyChange | None
    """Measured for int8."""
    accuracy_unknown: Text = ""
    """Why accuracy was not measured, where it should have been."""

    @property
    def needed_blobs(self) -> tuple[Sha256, ...]:
        """The file."""
        return (self.file.sha256,)
