"""Two versions side by side: metrics, size and measured figures, and what gates say of them.

Figures are compared only where that means something: metrics where both were taken on the same data, measured ones
where backend, batch size, input type, device, threads and hardware agree. Gates ask for more: a ratio of two times is
honest only when both were taken in turns, so changes of measured figures must come from one session.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from dlhpc.registry import remarks
from dlhpc.registry.benchmark_record import BenchmarkRecord
from dlhpc.registry.figures import MEASURED, OF_MANIFEST, Figure, Place, figures
from dlhpc.registry.gates import Gate, unknown_figure
from dlhpc.registry.manifest import Manifest
from dlhpc.registry.reader import Reader

_DIGITS = 9
"""Decimals of changes: 0.900 - 0.905 is -0.5 points, and not -0.5000000000000004."""


@dataclass(frozen=True)
class Row:
    """One figure of both versions, or of one (the other is None)."""

    place: Place
    a: Figure | None
    b: Figure | None
    apart: str = ""
    """Why the two cannot be compared; empty when they can."""

    @property
    def difference(self) -> float | None:
        """b - a, in the figure's unit: the median over rounds that were taken in turns."""
        if self.a is None or self.b is None or self.apart:
            return None
        pairs = zip(self.a.rounds, self.b.rounds, strict=True)
        return round(statistics.median(b - a for a, b in pairs), _DIGITS)

    @property
    def relative(self) -> float | None:
        """Percent that b lies above a, likewise; None where a is 0."""
        if self.a is None or self.b is None or self.apart or not all(self.a.rounds):
            return None
        pairs = zip(self.a.rounds, self.b.rounds, strict=True)
        return round(100 * statistics.median(b / a - 1 for a, b in pairs), _DIGITS)

    def canonical(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            **asdict(self.place),
            "unit": self.place.unit,
            "a": self.a and self.a.value,
            "b": self.b and self.b.value,
            "difference": self.difference,
            "relative_percent": self.relative,
            "not_comparable": self.apart or None,
        }


@dataclass(frozen=True)
class Verdict:
    """What a gate says."""

    gate: str
    outcome: Literal["passed", "failed", "unmeasurable", "not applied"]
    detail: str
    """The figures, or why there are none."""

    def __str__(self) -> str:
        return f"{self.gate} {self.outcome} ({self.detail})"


@dataclass(frozen=True)
class Comparison:
    """Two versions side by side. `a` is None where there was nothing to compare with."""

    a: str | None
    """Digest of the first version."""
    b: str
    session: str | None
    """In which both were measured in turns; None when measured figures are from different sessions, or missing."""
    hardware: str | None
    """The machine of that session."""
    rows: tuple[Row, ...]
    verdicts: tuple[Verdict, ...] = ()

    def verdicts_of(self, outcome: str) -> tuple[Verdict, ...]:
        """The verdicts with this outcome."""
        return tuple(verdict for verdict in self.verdicts if verdict.outcome == outcome)

    def canonical(self) -> dict[str, Any]:
        """As JSON values."""
        fields = {"a": self.a, "b": self.b, "session": self.session, "hardware": self.hardware}
        rows, verdicts = [row.canonical() for row in self.rows], [asdict(verdict) for verdict in self.verdicts]
        return {**fields, "figures": rows, "gates": verdicts}


def compare(registry: Reader, a: str | None, b: str, gates: Sequence[Gate] = ()) -> Comparison:
    """Compare the versions of two digests by what their manifests and benchmarks say, and judge `b` by the gates.

    Raises UsageError for a gate whose figure nothing has, IntegrityError when something that is read is damaged.
    """
    manifests = [None if digest is None else registry.manifest_of(digest) for digest in (a, b)]
    one, two = manifests
    assert two is not None
    _refuse_unknown(gates, manifests)
    rows = [*_metrics(one, two)]
    before, after = _latest(registry, a, b)
    together = before is not None and after is not None and before.session == after.session
    rows += _measured(before, after, together)
    shared = after if together or a is None else None
    return Comparison(
        a=a,
        b=b,
        session=None if shared is None else shared.session,
        hardware=None if shared is None else str(shared.hardware),
        rows=tuple(rows),
        verdicts=tuple(_judge(gate, rows, alone=a is None, together=together) for gate in gates),
    )


def measured_together(registry: Reader, a: str | None, b: str, gates: Iterable[Gate]) -> bool:
    """Whether what is on record answers all gates that ask for measured figures."""
    before, after = _latest(registry, a, b)
    if after is None or (a is not None and (before is None or before.session != after.session)):
        return not any(gate.is_measured for gate in gates)
    places = figures(after)
    return all(any(gate.covers(place) for place in places) for gate in gates if gate.is_measured)


def _latest(registry: Reader, a: str | None, b: str) -> tuple[BenchmarkRecord | None, BenchmarkRecord | None]:
    """The benchmarks to compare: the latest of a session that both took part in, else the latest of each."""
    theirs, ours = (
        () if digest is None else remarks.ledger(registry.annotations, digest, BenchmarkRecord).all()
        for digest in (a, b)
    )
    shared = {record.session: record for record in theirs}
    for record in reversed(ours):
        if record.session in shared:
            return shared[record.session], record
    return (theirs[-1] if theirs else None), (ours[-1] if ours else None)


def _metrics(a: Manifest | None, b: Manifest) -> Iterator[Row]:
    other = a is not None and a.data_fingerprint != b.data_fingerprint
    apart = "taken on other data: the fingerprints differ" if other else ""
    before: Mapping[str, float] = {} if a is None else a.metrics
    for name in sorted(before.keys() | b.metrics.keys()):
        yield Row(Place(name), _figure(before.get(name)), _figure(b.metrics.get(name)), apart)
    yield Row(Place("size"), None if a is None else _figure(a.size / 1e6), _figure(b.size / 1e6))


def _figure(value: float | None) -> Figure | None:
    return None if value is None else Figure((value,))


def _measured(a: BenchmarkRecord | None, b: BenchmarkRecord | None, together: bool) -> Iterator[Row]:
    before, after = ({} if record is None else figures(record) for record in (a, b))
    for place in sorted(before.keys() | after.keys(), key=_order):
        one, two = before.get(place), after.get(place)
        apart = "" if together or a is None or b is None else _elsewhere(place, a, b)
        if not (together or one is None or two is None):  # rounds of different times are no pairs
            one, two = Figure((one.value,)), Figure((two.value,))
        yield Row(place, one, two, apart)


def _elsewhere(place: Place, a: BenchmarkRecord, b: BenchmarkRecord) -> str:
    """Why figures of two sessions cannot be compared."""
    if place.figure == "parity":  # does not depend on how fast a machine is
        return ""
    if a.hardware != b.hardware:
        return f"measured on other hardware: {a.hardware}; {b.hardware}"
    one, two = (
        next(((each.device, each.threads) for each in record.processes if each.backend == place.backend), None)
        for record in (a, b)
    )
    if one is not None and two is not None and one != two:
        return f"measured on {one[0]} with {one[1]} threads; {two[0]} with {two[1]}"
    return ""


def _order(place: Place) -> tuple[Any, ...]:
    return place.backend or "", place.batch_size or 0, place.dtype or "", list(MEASURED).index(place.figure)


def _refuse_unknown(gates: Sequence[Gate], manifests: Sequence[Manifest | None]) -> None:
    metrics = {name for manifest in manifests if manifest is not None for name in manifest.metrics}
    for gate in gates:
        if gate.figure not in metrics and gate.figure not in MEASURED and gate.figure not in OF_MANIFEST:
            raise unknown_figure(gate, metrics)


def _judge(gate: Gate, rows: Sequence[Row], *, alone: bool, together: bool) -> Verdict:
    if gate.needs_both and alone:
        return Verdict(gate.text, "not applied", "there is no version to compare with yet")
    mine = [row for row in rows if gate.covers(row.place)]
    if not mine:
        return Verdict(gate.text, "unmeasurable", "not measured in this backend, batch size and type")
    if gate.needs_both and gate.is_measured and gate.figure != "parity" and not together:
        return Verdict(gate.text, "unmeasurable", "the two were not measured in one session")
    found = [(row, _asked(gate, row)) for row in mine]
    missing = next((row for row, value in found if value is None), None)
    if missing is not None:
        return Verdict(gate.text, "unmeasurable", _why_missing(missing))
    values = [(row.place, value) for row, value in found if value is not None]
    failed = [pair for pair in values if gate.holds(pair[1])]
    worst = (max if gate.operator.startswith(">") else min)(values, key=lambda pair: pair[1])
    told = failed or [worst]
    detail = ", ".join(f"{place} {_shown(gate, place, value)}" for place, value in told)
    return Verdict(gate.text, "failed" if failed else "passed", detail)


def _asked(gate: Gate, row: Row) -> float | None:
    """What the gate compares with its threshold."""
    match gate.kind:
        case "value":
            return None if row.b is None else row.b.value
        case "relative":
            return row.relative
        case "points":
            return None if row.difference is None else round(100 * row.difference, _DIGITS)
        case "difference":
            return row.difference


def _why_missing(row: Row) -> str:
    if row.apart:
        return row.apart
    for letter, figure in (("first", row.a), ("second", row.b)):
        if figure is None:
            return f"the {letter} version has no {row.place}"
    return f"{row.place} of the first version is 0, so there is no percentage of it"


def _shown(gate: Gate, place: Place, value: float) -> str:
    match gate.kind:
        case "relative":
            return f"{value:+.4g}%"
        case "points":
            return f"{value:+.4g}pt"
        case "difference":
            return f"{value:+.4g}{place.unit}"
        case "value":
            return f"{value:.4g}{place.unit}"
