"""Settings -> YAML text that the loader reads back to equal values."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from dlhpc.spec.catalogue import Key
from dlhpc.spec.load_yaml import resolve_scalar

_PLAIN: Final = re.compile(r"[A-Za-z0-9_./][A-Za-z0-9_./@+-]*\Z")
_WIDTH: Final = 100


def to_yaml(values: Mapping[str, Any], comment: Callable[[str], str | None], path: str = "") -> Iterator[str]:
    """The lines of nested settings; `comment` gives the remark behind a dotted key."""
    indent = "  " * (path.count(".") + 1 if path else 0)
    for key, value in values.items():
        dotted = f"{path}.{key}" if path else key
        if isinstance(value, Mapping):
            yield f"{indent}{key}:"
            yield from to_yaml(value, comment, dotted)
            continue
        remark = comment(dotted)
        line = f"{indent}{key}: {flow(value)}"
        yield f"{line.ljust(40)}  # {remark}" if remark else line


def flow(value: Any) -> str:
    """A value on one line, as YAML and --set read it."""
    match value:
        case Mapping():
            return "{" + ", ".join(f"{key}: {flow(item)}" for key, item in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(map(flow, value)) + "]"
        case str():
            is_plain = _PLAIN.match(value) and resolve_scalar(value) == value and len(value) < 200
            return value if is_plain else json.dumps(value)
        case float():
            text = repr(value)
            # Other readers (YAML 1.1) take 1e-08 for a text, 1.0e-08 for a number.
            return text.replace("e", ".0e") if "e" in text and "." not in text else text
        case _:
            return json.dumps(value)


def commented(keys: Sequence[Key], given: Mapping[str, Any]) -> Iterator[str]:
    """The lines of a file with every key and its help: the given ones set, the others switched off.

    `keys` are those that exist under the choices made, `given` is keyed by path. Help stands behind `# `; a key that
    is switched off, with its default, behind `#` alone: take that sign away to switch it on.
    """
    for key in keys:
        if "." not in key.path:
            yield ""
            yield from _block(key, keys, given, _WIDTH)


def _block(key: Key, keys: Sequence[Key], given: Mapping[str, Any], width: int) -> Iterator[str]:
    for line in textwrap.wrap(_help(key), width - 3):
        yield f"# {line}"
    if key.kind == "section":
        lines = [f"{key.name}:"]
        below = [k for k in keys if k.path.rpartition(".")[0] == key.path]
        is_on = "." not in key.path or any(path.startswith(f"{key.path}.") for path in given)
        # Inside a section that is switched off, all keys are on: they come back together.
        inner = given if is_on else {k.path: k.default for k in keys}
        for child in below:
            lines += [f"  {line}" for line in _block(child, keys, inner, width - 2)]
    else:
        lines = [f"{key.name}: {flow(given.get(key.path, key.default))}"]
        is_on = key.path in given
    yield from lines if is_on else (f"#{line}" for line in lines)


def _help(key: Key) -> str:
    takes = "" if key.kind == "section" else f" Takes {key.expected}."
    return f"{key.help.rstrip('.')}.{takes}"
