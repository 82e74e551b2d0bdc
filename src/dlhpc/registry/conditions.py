"""Conditions of a search: `accuracy>=0.98`, `tag.stage=gold`, `model.hidden_sizes=[256,128]`, `name~digits-*`.

A condition is a key, an operator and a value. `=` and `!=` compare values, `<`, `<=`, `>`, `>=` numbers (or texts, such
as times), `~` a text with a pattern of `*`, `?` and `[abc]`. A value is JSON where it can be read as such, else text.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from dlhpc.errors import UsageError

_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
_OPERATOR = re.compile(r">=|<=|!=|==|=|>|<|~")
_ORDERED: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


@dataclass(frozen=True)
class Condition:
    """One condition, as it was written and as it was understood."""

    text: str
    key: str
    operator: str
    written: str
    """The value as text."""
    value: Any
    """The value as JSON; the text itself where it is none."""

    def holds(self, found: Any) -> bool:
        """Whether a value that a version has under the key fulfils it. A tuple is several values: one is enough."""
        if self.operator == "!=":
            return not self._equal(found)
        if isinstance(found, tuple):
            return any(self.holds(each) for each in found)
        if self.operator == "=":
            return self._equal(found)
        if self.operator == "~":
            return fnmatchcase(_text(found), self.written)
        return self._ordered(found)

    def _equal(self, found: Any) -> bool:
        if isinstance(found, tuple):
            return any(self._equal(each) for each in found)
        if isinstance(found, str):  # a tag's 3 is a text
            return found in (self.written, self.value)
        if isinstance(found, bool) or isinstance(self.value, bool):
            return found is self.value
        return bool(found == self.value)

    def _ordered(self, found: Any) -> bool:
        compare = _ORDERED[self.operator]
        if _is_number(self.value):
            number = _number(found)
            return number is not None and compare(number, self.value)
        return isinstance(found, str) and compare(found, self.value)


def parse_condition(text: str) -> Condition:
    """Read a condition. Raises UsageError, with the place, when it is none."""
    start = len(text) - len(text.lstrip())
    key = _KEY.match(text, start)
    if key is None:
        raise mistake(text, start, "expected a key, such as accuracy, tag.stage or model.hidden_sizes")
    place = _skip(text, key.end())
    sign = _OPERATOR.match(text, place)
    if sign is None:
        raise mistake(text, place, f"expected one of = != < <= > >= ~ after {key[0]!r}")
    if sign[0] == "==":
        raise mistake(text, place + 1, "one '=' compares; expected a value")
    place = _skip(text, sign.end())
    written = text[place:].rstrip()
    if not written:
        raise mistake(text, place, f"expected a value after {sign[0]!r}")
    again = _OPERATOR.match(text, place)
    if again is not None:
        raise mistake(text, place, f'expected a value after {sign[0]!r}, not {again[0]!r}; quote a text: "{written}"')
    value = written if sign[0] == "~" and written[0] != '"' else _value(text, place, written)
    if isinstance(value, str):
        written = value
    if sign[0] in _ORDERED and not (_is_number(value) or isinstance(value, str)):
        raise mistake(text, place, f"{sign[0]!r} compares numbers or texts, not {written}")
    return Condition(text, key[0], sign[0], written, value)


def _value(text: str, place: int, written: str) -> Any:
    try:
        value = json.loads(written, parse_constant=str)  # NaN and Infinity are texts
    except json.JSONDecodeError as error:
        if written[0] in '[{"':
            raise mistake(text, place + error.pos, f"no JSON value: {error.msg}") from error
        return written
    except RecursionError as error:
        raise mistake(text, place, "nested too deeply") from error
    return value


def mistake(text: str, place: int, problem: str) -> UsageError:
    """The error for a condition that cannot be understood, pointing to the place."""
    shown = re.sub(r"\s", " ", text)
    return UsageError(f"search condition, column {place + 1}: {problem}\n  {shown}\n  {' ' * place}^")


def _skip(text: str, place: int) -> int:
    while place < len(text) and text[place].isspace():
        place += 1
    return place


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(found: Any) -> float | None:
    """A number, or the number that a text says."""
    if isinstance(found, str):
        try:
            return float(found)
        except ValueError:
            return None
    return found if _is_number(found) else None


def _text(found: Any) -> str:
    return found if isinstance(found, str) else json.dumps(found)
