"""Aliases: names that move from version to version, each with its whole history.

An alias is a ledger of moves (records.py); it stands for where the last one went. So the history cannot disagree with
the present, a move is one atomic step, and two movers at once make two entries.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dlhpc.errors import IntegrityError
from dlhpc.registry.folders import entries
from dlhpc.registry.manifest import sha256
from dlhpc.registry.records import AliasRecord, VersionRecord, append, numbers, read_record, record_path
from dlhpc.registry.refs import NAME

Stamp = Callable[[], tuple[str, str]]
"""Gives the time (UTC, ISO 8601) and the user@host."""


def alias_names(folder: Path) -> tuple[str, ...]:
    """The aliases of a name, sorted; `folder` is the name's `aliases` folder."""
    return tuple(alias for alias in entries(folder, NAME) if numbers(folder / alias))


def current(folder: Path, name: str, alias: str) -> AliasRecord | None:
    """The last move of an alias, or None when it was never set."""
    return _read(folder / alias, name, alias)[0]


def move(folder: Path, alias: str, target: VersionRecord, note: str, stamp: Stamp) -> AliasRecord:
    """Let an alias stand for `target`. Nothing is written when it does already."""
    name = target.name
    while True:
        last, content = _read(folder / alias, name, alias)
        if last is not None and last.moved_to == target.number:
            return last
        at, by = stamp()
        record = AliasRecord(
            name=name,
            number=last.number + 1 if last else 1,
            at=at,
            by=by,
            alias=alias,
            moved_from=last.moved_to if last else None,
            moved_to=target.number,
            manifest=target.manifest,
            note=note,
            previous=sha256(content) if content else None,
        )
        if append(folder / alias, record):
            return record


def history(folder: Path, name: str, alias: str) -> tuple[AliasRecord, ...]:
    """Every move of an alias, oldest first. Raises IntegrityError where the chain is broken."""
    moves: list[AliasRecord] = []
    previous: str | None = None
    for number in numbers(folder / alias):
        record, content = _checked(folder / alias, number, name, alias)
        if record.previous != previous:
            raise IntegrityError(f"{record_path(folder / alias, number)}: does not follow from the record before it")
        previous = sha256(content)
        moves.append(record)
    return tuple(moves)


def _read(folder: Path, name: str, alias: str) -> tuple[AliasRecord | None, bytes]:
    taken = numbers(folder)
    return _checked(folder, taken[-1], name, alias) if taken else (None, b"")


def _checked(folder: Path, number: int, name: str, alias: str) -> tuple[AliasRecord, bytes]:
    record, content = read_record(folder, number, AliasRecord)
    if (record.name, record.alias) != (name, alias):
        raise IntegrityError(
            f"{record_path(folder, number)}: belongs to {record.name}@{record.alias}: files were swapped"
        )
    return record, content
