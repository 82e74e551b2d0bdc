"""The manifest: everything that makes a version what it is, in one canonical byte string.

A version IS the sha256 of these bytes. They hold no time, no host and no name: the same weights from the same run are
the same version, whoever publishes them, whenever, under whatever name.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, ValidationError, model_validator

from dlhpc.errors import IntegrityError, UsageError
from dlhpc.ports import Preprocessing
from dlhpc.spec.base import NonNegativeInt, Spec, canonical_json
from dlhpc.spec.registry import Licence
from dlhpc.spec.run import RunSpec

FORMAT: Final = 2
"""Written; format 1, without golden examples, is read too."""
WEIGHTS_FILE: Final = "weights.safetensors"
GOLDEN_FILE: Final = "golden.safetensors"
CARD_FILE: Final = "model_card.md"

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,127}$")]


class FileEntry(Spec):
    """One file of a version."""

    sha256: Sha256
    """Of its bytes."""
    size: NonNegativeInt
    """In bytes."""


class TensorSchema(Spec):
    """What goes in, or comes out."""

    shape: tuple[int | None, ...]
    """Size of each axis; null is the batch, of any size."""
    dtypes: tuple[str, ...]
    """Number formats, any of which is taken (inputs) or the one that is given (outputs)."""
    meaning: str
    """What the numbers are."""


class Code(Spec):
    """The source that made the version."""

    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{40,64}$")]
    """Git commit of the checkout."""
    modified: bool
    """Whether tracked files differed from that commit."""


class Manifest(Spec):
    """What a version is. Contradictions between its parts are refused."""

    format: Literal[1, 2] = FORMAT
    """Version of this layout."""
    files: dict[FileName, FileEntry]
    """The version's files by name; the bytes lie in the registry under their digests."""
    run: RunSpec
    """The resolved run that trained it: architecture, data, preprocessing, everything."""
    inputs: TensorSchema
    """Images (batch, height, width, channels)."""
    outputs: TensorSchema
    """Class probabilities (batch, classes)."""
    classes: tuple[str, ...]
    """Name of each output, in order."""
    preprocessing: Preprocessing
    """(x / 255 - mean) / std, done by the predictor itself."""
    metrics: dict[str, float]
    """Measures of these weights on the validation part, by name."""
    data_fingerprint: str | None
    """DatasetInfo.fingerprint of the data it was trained on; null where nobody knows, as of imported weights."""
    code: Code | None
    """Null when the package was not run from a git checkout."""
    environment: dict[str, str]
    """Versions of Python and of the packages that computed it, and the kind of machine."""
    parents: tuple[Sha256, ...] = ()
    """Versions that it was made from."""
    licence: Licence | None = None
    """SPDX expression; null where none was given."""

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        model, data = self.run.model, self.run.data
        if model.input_shape is None or self.inputs.shape != (None, *model.input_shape):
            raise ValueError(
                f"inputs.shape {self.inputs.shape} is not (null, *run.model.input_shape {model.input_shape})"
            )
        if model.num_classes != len(self.classes) or self.outputs.shape != (None, len(self.classes)):
            raise ValueError(
                f"classes ({len(self.classes)}), outputs.shape {self.outputs.shape} and run.model.num_classes "
                f"({model.num_classes}) disagree"
            )
        if (self.preprocessing.mean, self.preprocessing.std) != (data.mean, data.std):
            raise ValueError("preprocessing is not that of run.data")
        for file in (WEIGHTS_FILE, GOLDEN_FILE) if self.format > 1 else (WEIGHTS_FILE,):
            if file not in self.files:
                raise ValueError(f"files has no {file!r}")
        return self

    def to_bytes(self) -> bytes:
        """The canonical JSON whose sha256 is the version."""
        return canonical_json(self.canonical())

    @property
    def digests(self) -> dict[str, str]:
        """sha256 of each file by name."""
        return {name: entry.sha256 for name, entry in self.files.items()}

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(entry.size for entry in self.files.values())


def sha256(content: bytes | memoryview) -> str:
    """Hex digest."""
    return hashlib.sha256(content).hexdigest()


def manifest_fields(content: bytes, where: str) -> dict[str, Any]:
    """The JSON of a manifest whose bytes were verified, unchecked: where thousands are looked through.

    Raises UsageError when a newer dlhpc wrote it, IntegrityError when it is none; `where` names the file.
    """
    try:
        fields: dict[str, Any] = json.loads(content)
        stated = fields["format"]
    except (ValueError, TypeError, KeyError) as error:
        raise IntegrityError(f"{where}: not a manifest: no JSON object with a 'format'") from error
    if isinstance(stated, int) and stated > FORMAT:
        raise UsageError(f"{where}: written in format {stated}; this dlhpc reads up to {FORMAT}: upgrade it")
    return fields


def parse_manifest(content: bytes, where: str) -> Manifest:
    """Read a manifest whose bytes were verified.

    Raises UsageError when a newer dlhpc wrote it, IntegrityError when it is none; `where` names the file.
    """
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        manifest_fields(content, where)  # says so where it is no JSON, or a newer format
        problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise IntegrityError(f"{where}: not a manifest of format {FORMAT}: {problems}") from error
