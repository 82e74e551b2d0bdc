"""Labels: the integers 1, 2, 3, ... under a name, each standing for one version for ever.

A label is a file of its own. So that ten thousand of them need not be opened to list them or to find one, writers keep
an index of the older ones (label_index.py): what it says is used only where the newest label that it covers agrees.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

from dlhpc.errors import DlhpcError
from dlhpc.registry import label_index
from dlhpc.registry.label_index import Label
from dlhpc.registry.places import Place
from dlhpc.registry.record_kinds import Stamper, VersionRecord
from dlhpc.registry.records import append, numbers, read_record

INDEX_EVERY = 64
"""Labels that the index may lack: each is a file that has to be opened."""


def label(folder: Place, name: str, number: int) -> VersionRecord:
    """The label of a number that exists; `folder` is the name's `versions` folder."""
    return read_record(folder, number, VersionRecord, repr(name))[0]


def every(folder: Place, name: str, taken: range) -> Iterator[Label]:
    """All labels, oldest first; `taken` are their numbers."""
    indexed = _index(folder, name, taken)
    yield from indexed
    for number in taken[len(indexed) :]:
        yield Label.of(label(folder, name, number))


def label_of(folder: Place, name: str, digest: str) -> VersionRecord | None:
    """The label that stands for a version, or None."""
    taken = numbers(folder)
    return _find(folder, name, digest, taken, _index(folder, name, taken))


def commit(folder: Place, name: str, digest: str, run: str | None, stamp: Stamper) -> VersionRecord:
    """Give a version the next label, or return the one that it has.

    Of several writers at once exactly one gets each number; the others look at what it took and try the next.
    """
    taken = numbers(folder)
    indexed = _index(folder, name, taken)
    there = _find(folder, name, digest, taken, indexed)
    while there is None:
        before = label(folder, name, taken[-1]).sequence if taken else 0
        at, by, sequence = stamp(before)
        record = VersionRecord(
            name=name, number=len(taken) + 1, at=at, by=by, manifest=digest, sequence=sequence, run=run
        )
        if append(folder, record):
            if record.number - len(indexed) >= INDEX_EVERY:
                _extend_index(folder, name, indexed, record.number)
            return record
        seen, taken = len(taken), numbers(folder)
        there = _among(folder, name, digest, taken[seen:])
    return there


def _find(folder: Place, name: str, digest: str, taken: range, indexed: Sequence[Label]) -> VersionRecord | None:
    number = next((row.number for row in indexed if row.manifest == digest), None)
    if number is not None:
        record = label(folder, name, number)
        if record.manifest == digest:
            return record
        indexed = ()  # it lies
    return _among(folder, name, digest, taken[len(indexed) :])


def _among(folder: Place, name: str, digest: str, candidates: range) -> VersionRecord | None:
    for number in reversed(candidates):
        record = label(folder, name, number)
        if record.manifest == digest:
            return record
    return None


def _index(folder: Place, name: str, taken: range) -> list[Label]:
    """What the index says, when it is one of these labels; nothing otherwise."""
    rows = label_index.read(folder.parent, name)
    if rows and len(rows) <= len(taken) and Label.of(label(folder, name, len(rows))) == rows[-1]:
        return rows
    return []


def _extend_index(folder: Place, name: str, indexed: list[Label], highest: int) -> None:
    rest = (Label.of(label(folder, name, number)) for number in range(len(indexed) + 1, highest + 1))
    with suppress(OSError, DlhpcError):  # the label is there, and nothing needs the index
        label_index.write(folder.parent, name, [*indexed, *rest])
