"""What happened to a name or to a version: publications, moves of aliases, tags, notes, benchmarks, derived
files, in order.

The order is that of the records' sequence numbers, so a clock that jumped changes nothing. Moves written by the first
format have none: they stand after the publication that they point to and the move before them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from dlhpc.registry import aliases, blobs, labels, remarks
from dlhpc.registry.benchmark_record import BenchmarkRecord
from dlhpc.registry.derived_record import DerivedRecord
from dlhpc.registry.label_index import Label
from dlhpc.registry.reader import Reader
from dlhpc.registry.record_kinds import AliasRecord, NoteRecord, SignatureRecord, TagRecord
from dlhpc.registry.records import numbers
from dlhpc.registry.refs import NewestRef, parse_ref

Kind = Literal["published", "alias", "tag", "untag", "note", "signature", "benchmark", "derived"]


@dataclass(frozen=True)
class Event:
    """One thing that happened."""

    sequence: int
    """Position in the order of all that happened in the registry; moves of the first format share a number."""
    at: str
    """UTC, ISO 8601, by the clock of the machine that wrote it."""
    by: str
    """user@host."""
    kind: Kind
    digest: str
    """The version that it is about."""
    ref: str
    """`name:number` of that version, under the name that it happened to."""
    what: str
    """The alias or tag; the run's folder of a publication; the key of a signature; where a benchmark was made; format
    and framework of a derived file; empty for notes."""
    before: str | None
    """Where the alias stood (`name:number`), or the tag's value."""
    after: str | None
    """Where the alias stands from then on, the tag's value, or the digest of the derived file."""
    note: str
    """Why, in the writer's words; the text of a note."""


def events(registry: Reader, ref: str) -> tuple[Event, ...]:
    """All that happened to a name (`ref` is the bare name) or to one version, oldest first.

    Raises NotFoundError when there is no such name or version, IntegrityError when a record is damaged.
    """
    digest = registry.resolve(ref)
    parsed = parse_ref(ref)
    whole = isinstance(parsed, NewestRef)
    found: list[Event] = []
    refs: dict[str, str] = {}
    for name in [parsed.name] if isinstance(parsed, NewestRef) else registry.names():
        folder = registry.versions(name)
        rows = list(labels.every(folder, name, numbers(folder)))
        mine = [row for row in rows if whole or row.manifest == digest]
        for row in mine:
            refs.setdefault(row.manifest, f"{name}:{row.number}")
            found.append(_published(name, row))
        if mine:
            found += _moves(registry, name, rows, {row.number for row in mine})
    for about in refs if len(refs) == 1 else blobs.digests(registry.annotations):
        if about in refs:  # once, however many names the version has
            found += _remarks(registry, about, refs[about])
    return tuple(sorted(found, key=lambda event: event.sequence))


def _published(name: str, row: Label) -> Event:
    ref = f"{name}:{row.number}"
    return Event(row.sequence, row.at, row.by, "published", row.manifest, ref, row.run or "", None, None, "")


def _moves(registry: Reader, name: str, rows: list[Label], wanted: set[int]) -> Iterator[Event]:
    """The moves to or from one of the wanted labels."""
    for alias in aliases.alias_names(registry.aliases(name)):
        reached = 0
        for move in aliases.moves(registry.aliases(name), name, alias).all():
            reached = move.sequence or max(reached, rows[move.moved_to - 1].sequence)
            if move.moved_to in wanted or move.moved_from in wanted:
                yield _moved(reached, move)


def _moved(sequence: int, move: AliasRecord) -> Event:
    before = None if move.moved_from is None else f"{move.name}:{move.moved_from}"
    after = f"{move.name}:{move.moved_to}"
    return Event(sequence, move.at, move.by, "alias", move.manifest, after, move.alias, before, after, move.note)


def _remarks(registry: Reader, digest: str, ref: str) -> Iterator[Event]:
    for change in remarks.ledger(registry.annotations, digest, TagRecord).all():
        kind: Kind = "untag" if change.after is None else "tag"
        yield Event(
            change.sequence or 0,
            change.at,
            change.by,
            kind,
            digest,
            ref,
            change.key,
            change.before,
            change.after,
            change.note,
        )
    for note in remarks.ledger(registry.annotations, digest, NoteRecord).all():
        yield Event(note.sequence or 0, note.at, note.by, "note", digest, ref, "", None, None, note.text)
    for signed in remarks.ledger(registry.annotations, digest, SignatureRecord).all():
        yield Event(
            signed.sequence or 0, signed.at, signed.by, "signature", digest, ref, signed.key, None, None, signed.note
        )
    for each in remarks.ledger(registry.annotations, digest, BenchmarkRecord).all():
        where = ", ".join([*(process.backend for process in each.processes), str(each.hardware)])
        yield Event(each.sequence or 0, each.at, each.by, "benchmark", digest, ref, where, None, None, "")
    for made in remarks.ledger(registry.annotations, digest, DerivedRecord).all():
        what = f"{made.derivation} by {made.backend}"
        yield Event(made.sequence or 0, made.at, made.by, "derived", digest, ref, what, None, made.file.sha256, "")
