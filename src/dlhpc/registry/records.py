"""Numbered, sealed records: the registry's ledger, as plain files 1.json, 2.json, ... in a folder.

A record is written aside, then linked to the next free number. The link either succeeds or finds the number taken, so
writers on any number of processes agree on one order, without gaps, without a lock and without a database, and a
process that is killed leaves nothing but a hidden file. Readers only list and read.

Each record carries the sha256 of its own canonical JSON and says where it belongs, so that a flipped byte, or another
record's bytes in its place, is noticed.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field, ValidationError

from dlhpc.errors import DlhpcError, IntegrityError, UsageError
from dlhpc.files import fsync_folder
from dlhpc.registry.folders import entries, make_folder
from dlhpc.registry.manifest import FORMAT, Sha256, sha256
from dlhpc.spec.base import Name, PositiveInt, Spec, canonical_json

R = TypeVar("R", bound="Record")


class Record(Spec):
    """One entry of a ledger."""

    format: Literal[1] = FORMAT
    """Version of this layout."""
    name: Name
    """Name of the model."""
    number: PositiveInt
    """Position in the ledger: the file's name."""
    at: str
    """When it was written, UTC, ISO 8601."""
    by: str
    """Who wrote it: user@host."""


class VersionRecord(Record):
    """A label: that version `number` of `name` is this manifest."""

    kind: Literal["version"] = "version"
    manifest: Sha256
    """Digest of the manifest: the version itself."""
    sequence: PositiveInt
    """Larger than that of every version published before it, under any name, whatever the clocks said."""


class AliasRecord(Record):
    """A move of an alias."""

    kind: Literal["alias"] = "alias"
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
    previous: Sha256 | None
    """sha256 of the record before this one: the history is a chain."""


def sealed(record: Record) -> bytes:
    """The bytes of a record, with its seal."""
    return _seal(record.canonical())


def numbers(folder: Path) -> range:
    """The numbers of the records in a folder, 1 to n; empty when there is no folder.

    Raises IntegrityError when one is missing or when there is a file that is no record.
    """
    found = {int(name.removesuffix(".json")) for name in entries(folder, r"[1-9][0-9]{0,8}\.json")}
    highest = max(found, default=0)
    for number in range(1, highest + 1):
        # A listing made while others write may lack an older record: only the file's own absence counts.
        if number not in found and not record_path(folder, number).exists():
            raise IntegrityError(f"{record_path(folder, number)}: missing, although {highest}.json exists")
    return range(1, highest + 1)


def record_path(folder: Path, number: int) -> Path:
    """The file of a record."""
    return folder / f"{number}.json"


def read_record(folder: Path, number: int, kind: type[R]) -> tuple[R, bytes]:
    """A record and its bytes. Raises IntegrityError, naming the file, when it is not what was written there."""
    path = record_path(folder, number)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise IntegrityError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        fields = json.loads(content)
        fields.pop("sha256")
        intact = _seal(fields) == content
    except (ValueError, TypeError, KeyError, AttributeError):
        intact = False
    if not intact:
        raise IntegrityError(f"{path}: damaged: its seal (sha256) does not fit its content; restore it from a backup")
    if isinstance(fields.get("format"), int) and fields["format"] > FORMAT:
        raise UsageError(f"{path}: written in format {fields['format']}; this dlhpc reads up to {FORMAT}: upgrade it")
    try:
        record = kind.model_validate(fields)
    except ValidationError as error:
        raise IntegrityError(f"{path}: no {kind.__name__}: {error.errors()[0]['msg']}") from error
    if record.number != number:
        raise IntegrityError(f"{path}: holds record {record.number}: files were swapped")
    return record, content


def append(folder: Path, record: Record) -> bool:
    """Write a record durably under its number; False when that number is taken."""
    make_folder(folder)
    aside = folder / f".{record.number}.{os.getpid()}.{secrets.token_hex(4)}.tmp"
    try:
        with aside.open("xb") as file:
            file.write(sealed(record))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(aside, record_path(folder, record.number))
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno in (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS):
                raise DlhpcError(
                    f"{folder}: this file system has no hard links, which publishing needs; use a registry on another"
                ) from error
            raise
        fsync_folder(folder)
        return True
    finally:
        aside.unlink(missing_ok=True)


def _seal(fields: dict[str, object]) -> bytes:
    return canonical_json({**fields, "sha256": sha256(canonical_json(fields))}) + b"\n"
