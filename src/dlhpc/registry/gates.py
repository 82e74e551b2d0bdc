"""Gates: conditions under which a version is refused, such as `p99>+10%`, `accuracy<-0.5pt`, `p99[torch,1]>20ms`.

    FIGURE [SELECTOR] OPERATOR THRESHOLD

FIGURE is one that is measured (figures.py), `size`, or a metric of the manifest. SELECTOR, in brackets, narrows it to a
backend, a batch size, an input type, or several of these. OPERATOR is `<`, `<=`, `>` or `>=`. THRESHOLD with a sign is
a change from the first version to the second: `+10%` of the first's value, `-0.5pt` in percentage points, `+0.01` in
the figure's own unit. Without a sign it is a limit to the second version's own value.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final, Literal, get_args

from dlhpc.errors import UsageError
from dlhpc.registry.benchmark_record import DTYPES
from dlhpc.registry.figures import MEASURED, OF_MANIFEST, Place
from dlhpc.spec.run import Backend

Kind = Literal["relative", "points", "difference", "value"]

_FIGURE = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*?(?=[\s\[<>=]|$)")
_PART = re.compile(r"[^\s,\]]+")
_OPERATOR = re.compile(r">=|<=|>|<")
_THRESHOLD = re.compile(r"([+-]?)((?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)")
_HOLDS: Final[dict[str, Callable[[float, float], bool]]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}
_BACKENDS: Final[tuple[str, ...]] = get_args(Backend)
_OF_CELL: Final = frozenset({"p50", "p99", "throughput", "memory", "first_call"})


@dataclass(frozen=True)
class Gate:
    """A condition under which a version is refused."""

    text: str
    """As it was written, without the spaces around."""
    figure: str
    backend: str | None
    batch_size: int | None
    dtype: str | None
    operator: str
    threshold: float
    """With its sign; percent for `relative`, percentage points for `points`, else in the figure's unit."""
    kind: Kind

    @property
    def is_measured(self) -> bool:
        """Whether a benchmark gives the figure."""
        return self.figure in MEASURED

    @property
    def needs_both(self) -> bool:
        """Whether it asks for a change, so that there must be a version to compare with."""
        return self.kind != "value"

    def covers(self, place: Place) -> bool:
        """Whether a figure is one of those it asks for."""
        return self.figure == place.figure and all(
            asked in (None, there)
            for asked, there in (
                (self.backend, place.backend),
                (self.batch_size, place.batch_size),
                (self.dtype, place.dtype),
            )
        )

    def holds(self, found: float) -> bool:
        """Whether a value, or a change of the gate's kind, is refused."""
        return _HOLDS[self.operator](found, self.threshold)


def parse_gate(text: str) -> Gate:
    """Read a gate. Raises UsageError, with the place, when it is none."""
    text = re.sub(r"\s", " ", text).rstrip()
    start = len(text) - len(text.lstrip())
    figure = _FIGURE.match(text, start)
    if figure is None:
        raise _mistake(text, start, "expected a figure, such as p99, throughput, size or accuracy")
    selector, place = _selector(text, _skip(text, figure.end()), figure[0])
    sign = _OPERATOR.match(text, place)
    if sign is None:
        raise _mistake(text, place, f"expected one of < <= > >= after {text[start:place].strip()!r}")
    place = _skip(text, sign.end())
    threshold = _THRESHOLD.match(text, place)
    if threshold is None:
        raise _mistake(text, place, f"expected a number after {sign[0]!r}, such as +10%, -0.5pt, +0.01 or 20")
    number, end = float(threshold[1] + threshold[2]), threshold.end()
    if number in (float("inf"), float("-inf")):
        raise _mistake(text, place, f"{threshold[0]} is larger than any figure")
    kind = _kind(text, end, figure[0], bool(threshold[1]))
    return Gate(text[start:], figure[0], *selector, sign[0], number, kind)


def unknown_figure(gate: Gate, metrics: set[str]) -> UsageError:
    """The error for a figure that neither a benchmark nor a manifest has."""
    there = [*sorted(metrics), *OF_MANIFEST, *MEASURED]
    near = get_close_matches(gate.figure, there, n=2, cutoff=0.6)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"there are: {', '.join(there)}"
    return _mistake(gate.text, 0, f"no figure {gate.figure!r}; {hint}")


def _selector(text: str, place: int, figure: str) -> tuple[tuple[str | None, int | None, str | None], int]:
    """Backend, batch size and type in brackets, each None where it is not said; and where the operator should be."""
    if text[place : place + 1] != "[":
        return (None, None, None), place
    if figure not in MEASURED:
        raise _mistake(text, place, f"{figure} is the same in every backend and batch; expected < <= > >=")
    said: dict[str, str] = {}
    place = _skip(text, place + 1)
    while True:
        part = _PART.match(text, place)
        if part is None:
            raise _mistake(text, place, "expected a backend, a batch size or an input type, as in [torch,1,uint8]")
        what = _what(text, place, part[0], figure)
        if what in said:
            raise _mistake(text, place, f"the {what} was said before: {said[what]}; write one gate for each")
        said[what] = part[0]
        place = _skip(text, part.end())
        if text[place : place + 1] == "]":
            batch = said.get("batch size")
            selector = said.get("backend"), None if batch is None else int(batch), said.get("input type")
            return selector, _skip(text, place + 1)
        if text[place : place + 1] != ",":
            raise _mistake(text, place, "expected ',' or ']'")
        place = _skip(text, place + 1)


def _what(text: str, place: int, part: str, figure: str) -> str:
    if part in _BACKENDS:
        return "backend"
    if figure in _OF_CELL and part in DTYPES:
        return "input type"
    if figure in _OF_CELL and re.fullmatch(r"[1-9][0-9]{0,4}", part):
        return "batch size"
    known = [*_BACKENDS, *DTYPES, "a batch size"] if figure in _OF_CELL else [*_BACKENDS]
    raise _mistake(text, place, f"{part!r} is none of {', '.join(known)}")


def _kind(text: str, end: int, figure: str, signed: bool) -> Kind:
    place = _skip(text, end)
    unit = text[place:]
    own = (MEASURED | OF_MANIFEST).get(figure, "")
    if unit == "%":
        if not signed:
            raise _mistake(text, end, "a percentage is a change: write its sign, as in +10% or -5%")
        return "relative"
    if unit == "pt":
        if not signed:
            raise _mistake(text, end, "percentage points are a change: write their sign, as in -0.5pt")
        if own or figure in MEASURED:
            raise _mistake(text, place, f"percentage points are of shares such as accuracy, not of {figure}")
        return "points"
    if unit not in ("", own):
        expected = f"{own}, %" if own else "pt, %" if figure not in MEASURED else "%"
        raise _mistake(text, place, f"expected {expected} or nothing after the number, not {unit!r}")
    return "difference" if signed else "value"


def _mistake(text: str, place: int, problem: str) -> UsageError:
    return UsageError(f"gate, column {place + 1}: {problem}\n  {text}\n  {' ' * place}^")


def _skip(text: str, place: int) -> int:
    while place < len(text) and text[place] == " ":
        place += 1
    return place
