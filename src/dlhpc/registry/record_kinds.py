"""What the registry's records say. Each kind lies in ledgers of its own (records.py)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Annotated, ClassVar, Final, Literal, NamedTuple

from pydantic import Field

from dlhpc.registry.manifest import Sha256
from dlhpc.spec.base import Name, PositiveInt, Spec

RECORD_FORMAT: Final = 2
"""Written; format 1, without `sequence` in the moves of aliases and without `run` in labels, is read too."""

TagKey = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}$")]
Text = Annotated[str, Field(max_length=65536)]
Base64 = Annotated[str, Field(pattern=r"^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$")]


class Stamp(NamedTuple):
    """When, by whom, and after what a record is written."""

    at: str
    by: str
    sequence: int


Stamper = Callable[[int], Stamp]
"""Gives a stamp whose sequence is larger than the given number."""


class Record(Spec):
    """One entry of a ledger."""

    format: Literal[1, 2] = RECORD_FORMAT
    """Version of this layout."""
    number: PositiveInt
    """Position in the ledger: the file's name."""
    at: str
    """When it was written, UTC, ISO 8601."""
    by: str
    """Who wrote it: user@host."""
    sequence: PositiveInt | None = None
    """Larger than that of every record written before it, in any ledger, whatever the clocks said."""

    @property
    @abstractmethod
    def place(self) -> str:
        """What the record belongs to, as errors name it."""


class VersionRecord(Record):
    """A label: that version `number` of `name` is this manifest."""

    kind: Literal["version"] = "version"
    name: Name
    """Name of the model."""
    sequence: PositiveInt
    manifest: Sha256
    """Digest of the manifest: the version itself."""
    run: str | None = None
    """Folder of the training run that published it, as it was called there."""

    @property
    def place(self) -> str:
        """The name."""
        return repr(self.name)


class ChainedRecord(Record):
    """A record that holds the hash of the one before it: a history cannot be changed in the middle."""

    previous: Sha256 | None
    """sha256 of the record before this one; null in the first."""


class AliasRecord(ChainedRecord):
    """A move of an alias."""

    kind: Literal["alias"] = "alias"
    name: Name
    """Name of the model."""
    alias: Name
    """The alias that moved."""
    moved_from: Annotated[int, Field(ge=1, strict=True)] | None
    """Label it stood for before; null at first."""
    moved_to: PositiveInt
    """Label it stands for from now on."""
    manifest: Sha256
    """Digest of that label's manifest."""
    note: str
    """Why, in the mover's words."""

    @property
    def place(self) -> str:
        """`name@alias`."""
        return f"{self.name}@{self.alias}"


class RemarkRecord(ChainedRecord):
    """Something that was said about a version, or found out, after it was published (remarks.py)."""

    folder: ClassVar[str]
    """Folder of the ledger, among the version's annotations; the plural that errors use."""
    version: Sha256
    """Digest of the manifest: the version itself, under whatever names."""

    @property
    def place(self) -> str:
        """`the tags of sha256:<digest>`, and the like."""
        return self.place_of(self.version)

    @classmethod
    def place_of(cls, digest: str) -> str:
        """What `place` must say in the ledger of a version."""
        return f"the {cls.folder} of sha256:{digest}"

    @property
    def needed_blobs(self) -> tuple[Sha256, ...]:
        """Files, by digest, that the record stands for: they are kept as long as the version is."""
        return ()


class TagRecord(RemarkRecord):
    """A tag of a version that was set, changed or removed."""

    folder = "tags"
    kind: Literal["tag"] = "tag"
    key: TagKey
    """The tag."""
    before: Text | None
    """Its value before; null when it had none."""
    after: Text | None
    """Its value from now on; null when it was removed."""
    tags: dict[TagKey, Text]
    """All tags of the version from now on, so that the last record says them all."""
    note: Text
    """Why, in the writer's words."""


class NoteRecord(RemarkRecord):
    """Something to know about a version."""

    folder = "notes"
    kind: Literal["note"] = "note"
    text: Annotated[str, Field(min_length=1, max_length=65536)]
    """The note."""


class EnvelopeSignature(Spec):
    """One signature of an envelope."""

    keyid: Sha256
    """Id of the key that made it."""
    sig: Base64
    """The signature itself."""


class Envelope(Spec):
    """A signed statement (DSSE: dead simple signing envelope)."""

    payload: Base64
    """The statement: statements.py."""
    payload_type: Literal["application/vnd.in-toto+json"]
    """What the payload is; signed with it."""
    signatures: Annotated[tuple[EnvelopeSignature, ...], Field(min_length=1, max_length=1)]
    """By one key; each key's signature is a record of its own."""


class SignatureRecord(RemarkRecord):
    """A signature of a version."""

    folder = "signatures"
    kind: Literal["signature"] = "signature"
    key: Sha256
    """Id of the key: sha256 of its public half as PEM."""
    envelope: Envelope
    """What was signed, and the signature."""
    note: Text
    """Why, in the signer's words."""
