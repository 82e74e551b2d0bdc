"""Chained ledgers: histories to which entries are added, and whose last entry says how things stand now.

So the history cannot disagree with the present, a change is one atomic step, and two writers at once make two entries.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from dlhpc.errors import IntegrityError
from dlhpc.registry.manifest import sha256
from dlhpc.registry.places import Place
from dlhpc.registry.record_kinds import ChainedRecord
from dlhpc.registry.records import append, numbers, read_record, record_path

C = TypeVar("C", bound=ChainedRecord)


class Ledger(Generic[C]):
    """The records of one kind in one folder, all of which belong to one place."""

    def __init__(self, folder: Place, kind: type[C], place: str) -> None:
        self.folder, self.kind, self.place = folder, kind, place

    def last(self) -> C | None:
        """How things stand; None when nothing was ever written."""
        return self._last()[0]

    def all(self) -> tuple[C, ...]:
        """Every record, oldest first. Raises IntegrityError where the chain is broken."""
        records: list[C] = []
        previous: str | None = None
        for number in numbers(self.folder):
            record, content = read_record(self.folder, number, self.kind, self.place)
            if record.previous != previous:
                path = record_path(self.folder, number)
                raise IntegrityError(f"{path}: does not follow from the record before it")
            previous = sha256(content)
            records.append(record)
        return tuple(records)

    def extend(self, make: Callable[[int, C | None, str | None], C | None]) -> C | None:
        """Add the record that `make` gives for the next number, the last record and its sha256.

        `make` is asked again when another writer was first; it gives None when nothing has to change. Returns the
        record that was added, or the last one.
        """
        while True:
            last, content = self._last()
            record = make(last.number + 1 if last else 1, last, sha256(content) if last else None)
            if record is None:
                return last
            if append(self.folder, record):
                return record

    def _last(self) -> tuple[C | None, bytes]:
        taken = numbers(self.folder)
        return read_record(self.folder, taken[-1], self.kind, self.place) if taken else (None, b"")
