"""Configuration as it was written: values that remember where each of them stands."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dlhpc.errors import ConfigError

SHOWN_WIDTH: Final = 100
"""Longest piece of a source line that a message shows."""


class Refused:
    """Stands for a value that has been reported already: later stages leave it out in silence."""


REFUSED: Final = Refused()


@dataclass(frozen=True)
class Place:
    """Where a value comes from: a position in a file, an environment variable, a --set, or a caller's words."""

    origin: str
    """Path of the file, or a text such as `--set seed=1`."""
    line: int | None = None
    """From 1; None outside files."""
    column: int | None = None
    """From 1, in characters."""
    source: str = ""
    """The whole source line."""
    layer: int = 0
    """Rank of precedence: problems are listed in this order, then by line."""
    written: str = ""
    """The key as the user wrote it, where that is not the spec's own (`model.name` for `backend`)."""

    def __str__(self) -> str:
        return self.origin if self.line is None else f"{self.origin}:{self.line}:{self.column}"

    def problem(self, key: str, text: str) -> str:
        """`file:line:col: key: text`, with the source line and a caret below when there is one."""
        key = self.written or key
        head = f"{self}: {key}: {text}" if key else f"{self}: {text}"
        return head if self.line is None or not self.source.strip() else f"{head}\n{self._excerpt()}"

    def _excerpt(self) -> str:
        column = (self.column or 1) - 1
        start = max(0, column - SHOWN_WIDTH // 2)
        shown = self.source[start : start + SHOWN_WIDTH]
        # The caret's line repeats tabs and doubles wide characters, so that it stands right in a terminal.
        before = self.source[start:column]
        gap = "".join(c if c == "\t" else " " * _width(c) for c in before)
        return f"    {shown}\n    {gap}^"


def _width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


@dataclass(frozen=True)
class Node:
    """A value with its place: a scalar, a list of nodes, or a mapping of entries."""

    value: Any
    """None, bool, int, float, str, list[Node], dict[str, Entry], or REFUSED."""
    place: Place

    @property
    def entries(self) -> dict[str, Entry]:
        """The entries of a mapping; empty for anything else."""
        return self.value if isinstance(self.value, dict) else {}

    def get(self, key: str) -> Node | None:
        """The node under a key of a mapping."""
        entry = self.entries.get(key)
        return entry.node if entry else None

    def plain(self) -> Any:
        """The value without places. Refused values are left out."""
        match self.value:
            case dict() as entries:
                return {k: e.node.plain() for k, e in entries.items() if e.node.value is not REFUSED}
            case list() as items:
                return [item.plain() for item in items if item.value is not REFUSED]
            case value:
                return value

    def refused_inside(self) -> bool:
        """Whether any value in here has been reported already."""
        match self.value:
            case dict() as entries:
                return any(entry.node.refused_inside() for entry in entries.values())
            case list() as items:
                return any(item.refused_inside() for item in items)
            case value:
                return value is REFUSED


@dataclass(frozen=True)
class Entry:
    """One key of a mapping."""

    place: Place
    """Of the key."""
    node: Node


class Problems:
    """Everything found wrong so far, in any order; told in the order of the files."""

    def __init__(self) -> None:
        self._found: list[tuple[Place, str]] = []

    def __len__(self) -> int:
        return len(self._found)

    def add(self, place: Place, key: str, text: str) -> None:
        """Note a problem of `key` at `place`."""
        self._found.append((place, place.problem(key, text)))

    def texts(self) -> tuple[str, ...]:
        """Printable problems: by precedence of the source, then by line; each once."""
        ordered = sorted(self._found, key=lambda found: (found[0].layer, found[0].line or 0, found[0].column or 0))
        return tuple(dict.fromkeys(text for _, text in ordered))

    def raise_any(self) -> None:
        """Raise ConfigError when there is any problem."""
        if self._found:
            raise ConfigError(self.texts())


def node_of(value: Any, place: Place) -> Node:
    """A node made of plain Python values, all at one place. Nodes inside keep their own places."""
    match value:
        case Node():
            return value
        case Mapping():
            return Node({str(key): Entry(place, node_of(item, place)) for key, item in value.items()}, place)
        case None | bool() | int() | float() | str():
            return Node(value, place)
        case Sequence():
            return Node([node_of(item, place) for item in value], place)
        case other:
            return Node(str(other), place)


def nest(path: Sequence[str], node: Node, place: Place) -> Node:
    """A mapping that holds `node` under the dotted path."""
    for key in reversed(path):
        node = Node({key: Entry(place, node)}, place)
    return node
