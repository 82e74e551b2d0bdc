"""Which handler a path belongs to: paths as they are, and patterns of them such as `/models/{name}/predict`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from dlhpc.serving.exchange import Handler

Methods = Mapping[str, Handler]
Parameters = Mapping[str, str]

LONGEST_PATH: Final = 1024
"""Longer ones belong to nobody, and are not looked at."""
_NONE: Final[Parameters] = {}
_PARAMETER: Final = re.compile(r"\{([a-z_]+)\}")
_VALUE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,199}", re.ASCII)
"""What may stand for a parameter: names, numbers, aliases and digests; nothing that could be a path of its own."""


class Route(NamedTuple):
    """Where a request belongs."""

    pattern: str
    """The path as it was declared, by which requests are counted."""
    methods: Methods
    parameters: Parameters


class Routes:
    """Paths and patterns with their handlers.

    A part of a pattern in braces stands for one part of a path, which is letters, digits and `. _ : @ -` and begins
    with a letter or a digit. Paths go before patterns, and among patterns the one that was declared first.
    """

    def __init__(self, table: Mapping[str, Methods]) -> None:
        self._exact = {path: Route(path, methods, _NONE) for path, methods in table.items() if "{" not in path}
        self._patterns = [_pattern(path, methods) for path, methods in table.items() if "{" in path]
        self.paths = tuple(table)
        """All that were declared."""

    def find(self, path: str, raw_path: bytes = b"") -> Route | None:
        """The route of a decoded path; None when it has none.

        `raw_path` is the path as it was sent. One with an encoded slash has no route: it would be another path for
        whoever looked at it before us.
        """
        if b"%" in raw_path and b"%2f" in raw_path.lower():
            return None
        found = self._exact.get(path)
        if found is not None or len(path) > LONGEST_PATH:
            return found
        parts = path.split("/")
        for pattern in self._patterns:
            parameters = pattern.match(parts)
            if parameters is not None:
                return Route(pattern.path, pattern.methods, parameters)
        return None


class _Pattern(NamedTuple):
    """A path with parameters, cut at its slashes."""

    parts: list[tuple[str, bool]]
    """Texts, and names of parameters: those are the true ones."""
    path: str
    methods: Methods

    def match(self, parts: list[str]) -> Parameters | None:
        """The values of the parameters; None when these are not the parts of such a path."""
        if len(parts) != len(self.parts):
            return None
        values: dict[str, str] = {}
        for (expected, is_parameter), part in zip(self.parts, parts, strict=True):
            if not is_parameter:
                if part != expected:
                    return None
            elif _VALUE.fullmatch(part) is None:
                return None
            else:
                values[expected] = part
        return values


def _pattern(path: str, methods: Methods) -> _Pattern:
    found = ((part, _PARAMETER.fullmatch(part)) for part in path.split("/"))
    return _Pattern([(part, False) if name is None else (name[1], True) for part, name in found], path, methods)
