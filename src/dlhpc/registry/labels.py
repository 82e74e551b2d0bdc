"""Labels: the integers 1, 2, 3, ... under a name, each standing for one version for ever."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dlhpc.errors import IntegrityError
from dlhpc.registry.aliases import Stamp
from dlhpc.registry.records import VersionRecord, append, numbers, read_record, record_path


def label(folder: Path, name: str, number: int) -> VersionRecord:
    """The label of a number that exists; `folder` is the name's `versions` folder."""
    record, _ = read_record(folder, number, VersionRecord)
    if record.name != name:
        raise IntegrityError(f"{record_path(folder, number)}: belongs to {record.name!r}: files were swapped")
    return record


def label_of(folder: Path, name: str, digest: str) -> VersionRecord | None:
    """The label that stands for a version, or None."""
    return _among(folder, name, digest, numbers(folder))


def commit(folder: Path, name: str, digest: str, next_sequence: Callable[[], int], stamp: Stamp) -> VersionRecord:
    """Give a version the next label, or return the one that it has.

    Of several writers at once exactly one gets each number; the others look at what it took and try the next.
    """
    seen = 0
    while True:
        taken = numbers(folder)
        there = _among(folder, name, digest, taken[seen:])
        if there is not None:
            return there
        seen = len(taken)
        at, by = stamp()
        record = VersionRecord(name=name, number=seen + 1, at=at, by=by, manifest=digest, sequence=next_sequence())
        if append(folder, record):
            return record


def _among(folder: Path, name: str, digest: str, candidates: range) -> VersionRecord | None:
    for number in reversed(candidates):
        record = label(folder, name, number)
        if record.manifest == digest:
            return record
    return None
