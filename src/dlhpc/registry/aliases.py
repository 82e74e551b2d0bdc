"""Aliases: names that move from version to version, each with its whole history.

An alias is a ledger of moves (ledger.py); it stands for where the last one went.
"""

from __future__ import annotations

from dlhpc.errors import ConflictError
from dlhpc.registry.folders import entries
from dlhpc.registry.ledger import Ledger
from dlhpc.registry.places import Place
from dlhpc.registry.record_kinds import AliasRecord, Stamper, VersionRecord
from dlhpc.registry.records import numbers
from dlhpc.registry.refs import NAME


def alias_names(folder: Place) -> tuple[str, ...]:
    """The aliases of a name, sorted; `folder` is the name's `aliases` folder."""
    return tuple(alias for alias in entries(folder, NAME) if numbers(folder / alias))


def moves(folder: Place, name: str, alias: str) -> Ledger[AliasRecord]:
    """The moves of an alias."""
    return Ledger(folder / alias, AliasRecord, f"{name}@{alias}")


def move(
    folder: Place, alias: str, target: VersionRecord, note: str, stamp: Stamper, expected: int | None = None
) -> AliasRecord:
    """Let an alias stand for `target`. Nothing is written when it does already.

    `expected` is the number of the move that must be the last one, 0 for none; None is content with any. Raises
    ConflictError when there was another since.
    """

    def next_move(number: int, last: AliasRecord | None, previous: str | None) -> AliasRecord | None:
        if last is not None and last.moved_to == target.number:
            return None
        if last is not None and expected is not None and last.number != expected:
            raise ConflictError(
                f"{target.name}@{alias} was moved to {target.name}:{last.moved_to} meanwhile, by {last.by} at "
                f"{last.at}: it stays there; try again from where it stands now"
            )
        at, by, sequence = stamp(max(target.sequence, (last and last.sequence) or 0))
        return AliasRecord(
            name=target.name,
            number=number,
            at=at,
            by=by,
            sequence=sequence,
            alias=alias,
            moved_from=last.moved_to if last else None,
            moved_to=target.number,
            manifest=target.manifest,
            note=note,
            previous=previous,
        )

    last = moves(folder, target.name, alias).extend(next_move)
    assert last is not None, "an alias that was never set is moved"
    return last
