"""The index of a name's labels: one file that says what thousands of labels say. It may be removed at any time.

    names/<name>/.labels     sha256 of the second line; the labels 1 to n, by column

A damaged index is none; the next publication writes another.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from dlhpc.registry.manifest import sha256
from dlhpc.registry.places import Place, replace
from dlhpc.registry.record_kinds import VersionRecord
from dlhpc.spec.base import canonical_json

FILE = ".labels"


class Label(NamedTuple):
    """What a label says."""

    number: int
    manifest: str
    at: str
    by: str
    sequence: int
    run: str | None

    @classmethod
    def of(cls, record: VersionRecord) -> Label:
        """The label of a record."""
        return cls(record.number, record.manifest, record.at, record.by, record.sequence, record.run)


def read(folder: Place, name: str) -> list[Label]:
    """The labels 1 to n of the index in a name's folder; none when there is no index, or not a whole one."""
    try:
        seal, content = (folder / FILE).read_bytes().split(b"\n", 1)
        if sha256(content).encode() != seal:
            return []
        columns = json.loads(content)
        if columns["format"] != 1 or columns["name"] != name:
            return []
        people, by = columns["people"], columns["by"]
        rest = (columns["manifest"], columns["at"], [people[who] for who in by], columns["sequence"], columns["run"])
        return list(map(Label, range(1, len(by) + 1), *rest))
    except (OSError, ValueError, KeyError, TypeError):
        return []


def write(folder: Place, name: str, labels: list[Label]) -> None:
    """Write the index of the labels 1 to n."""
    people = sorted({label.by for label in labels})
    place = {who: index for index, who in enumerate(people)}
    content = canonical_json(
        {
            "format": 1,
            "name": name,
            "people": people,
            "manifest": [label.manifest for label in labels],
            "at": [label.at for label in labels],
            "by": [place[label.by] for label in labels],
            "sequence": [label.sequence for label in labels],
            "run": [label.run for label in labels],
        }
    )
    replace(folder / FILE, sha256(content).encode() + b"\n" + content)
