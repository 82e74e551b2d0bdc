"""Numbered, sealed records: the registry's ledger, as plain files 1.json, 2.json, ... in a folder.

A record is written aside, then linked to the next free number. The link either succeeds or finds the number taken, so
writers on any number of processes agree on one order, without gaps, without a lock and without a database, and a
process that is killed leaves nothing but a hidden file. Readers only list and read.

Each record carries the sha256 of its own canonical JSON and says where it belongs, so that a flipped byte, or another
record's bytes in its place, is noticed.
"""

from __future__ import annotations

import json
from typing import Final, TypeVar

from pydantic import ValidationError

from dlhpc.errors import IntegrityError, UsageError
from dlhpc.registry.folders import entries
from dlhpc.registry.manifest import sha256
from dlhpc.registry.places import Place, create, make_folder, names
from dlhpc.registry.record_kinds import RECORD_FORMAT, Record
from dlhpc.spec.base import canonical_json

R = TypeVar("R", bound=Record)

NUMBERED: Final = r"[1-9][0-9]{0,8}\.json"
"""Pattern of the file names."""


def sealed(record: Record) -> bytes:
    """The bytes of a record, with its seal."""
    return _seal(record.canonical())


def numbers(folder: Place) -> range:
    """The numbers of the records in a folder, 1 to n; empty when there is no folder.

    Raises IntegrityError when one is missing or when there is a file that is no record.
    """
    try:
        there = {name for name in names(folder) if not name.startswith(".")}
    except OSError:
        there = {"unreadable"}  # entries says why
    taken = range(1, len(there) + 1)
    if there == {f"{number}.json" for number in taken}:
        return taken
    found = {int(name.removesuffix(".json")) for name in entries(folder, NUMBERED)}
    highest = max(found, default=0)
    for number in range(1, highest + 1):
        # A listing made while others write may lack an older record: only the file's own absence counts.
        if number not in found and not record_path(folder, number).exists():
            raise IntegrityError(f"{record_path(folder, number)}: missing, although {highest}.json exists")
    return range(1, highest + 1)


def record_path(folder: Place, number: int) -> Place:
    """The file of a record."""
    return folder / f"{number}.json"


def read_record(folder: Place, number: int, kind: type[R], place: str | None = None) -> tuple[R, bytes]:
    """A record and its bytes; `place` is what it must say it belongs to.

    Raises IntegrityError, naming the file, when it is not what was written there.
    """
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
    stated = fields.get("format")
    if isinstance(stated, int) and stated > RECORD_FORMAT:
        raise UsageError(f"{path}: written in format {stated}; this dlhpc reads up to {RECORD_FORMAT}: upgrade it")
    try:
        record = kind.model_validate(fields)
    except ValidationError as error:
        raise IntegrityError(f"{path}: no {kind.__name__}: {error.errors()[0]['msg']}") from error
    if record.number != number:
        raise IntegrityError(f"{path}: holds record {record.number}: files were swapped")
    if place is not None and record.place != place:
        raise IntegrityError(f"{path}: belongs to {record.place}: files were swapped")
    return record, content


def append(folder: Place, record: Record) -> bool:
    """Write a record durably under its number; False when that number is taken."""
    make_folder(folder)
    return create(record_path(folder, record.number), sealed(record))


def _seal(fields: dict[str, object]) -> bytes:
    return canonical_json({**fields, "sha256": sha256(canonical_json(fields))}) + b"\n"
