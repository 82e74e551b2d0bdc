"""Benchmarks of versions: what loading and answering cost, in each framework, batch size and input type.

Every version is loaded in a process of its own per framework, as a server would: read, hashed, built. Then all take
turns, round by round and in alternating order, so that what the machine does meanwhile hits all alike. A process can
have bad luck that lasts as long as it does (where its memory and its threads come to lie), so fresh ones take over,
several times. What is told is the median over all rounds; versions that were measured in one session may be compared
round by round.
"""

from __future__ import annotations

import math
import secrets
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final, get_args

from dlhpc.errors import UsageError
from dlhpc.monitoring.machine import hardware
from dlhpc.registry.benchmark_process import Subject
from dlhpc.registry.benchmark_record import (
    DTYPES,
    Beginning,
    BenchmarkRecord,
    Cell,
    DType,
    Hardware,
    Load,
    Process,
    Round,
)
from dlhpc.registry.places import Place
from dlhpc.registry.record_kinds import Stamper
from dlhpc.registry.remarks import ledger
from dlhpc.spec.run import Backend

BACKENDS: Final[tuple[Backend, ...]] = get_args(Backend)
LARGEST_BATCH = 65536
LOADS = 2
"""Loads that each process repeats."""

Start = Callable[[str, Backend], Subject]
"""Loads the version of a digest in a framework."""
Progress = Callable[[int, int], None]
"""Told how many of how many steps are done."""


@dataclass(frozen=True)
class BenchmarkPlan:
    """What is measured, and for how long. Raises UsageError when nothing would be."""

    backends: tuple[Backend, ...] = BACKENDS
    batch_sizes: tuple[int, ...] = (1, 8, 32)
    dtypes: tuple[DType, ...] = ("uint8",)
    processes: int = 3
    """Fresh processes of each backend, one after the other."""
    rounds: int = 5
    """Turns of each process: many short ones, so that a ratio of two neighbours in time tells little of the machine's
    mood."""
    seconds: float = 0.1
    """Of calls, in each round of each backend, batch size and type."""
    calls: int | None = None
    """So many calls instead."""

    def __post_init__(self) -> None:
        for what, given, known in (("backend", self.backends, BACKENDS), ("dtype", self.dtypes, DTYPES)):
            for each in given:
                if each not in known:
                    raise UsageError(f"{what} {each!r} is unknown: it is one of {', '.join(map(repr, known))}")
        wrong = [size for size in self.batch_sizes if not 1 <= size <= LARGEST_BATCH]
        if wrong:
            raise UsageError(f"a batch of {wrong[0]} images cannot be measured: give 1 to {LARGEST_BATCH}")
        if not (self.backends and self.batch_sizes and self.dtypes):
            raise UsageError("nothing to measure: give at least one backend, batch size and dtype")
        if (
            min(self.processes, self.rounds) < 1
            or not 0 < self.seconds < math.inf
            or (self.calls is not None and self.calls < 1)
        ):
            raise UsageError("nothing to measure: processes, rounds, seconds and calls must be positive, and end")

    @property
    def kinds(self) -> tuple[tuple[int, DType], ...]:
        """Batch sizes and types, small batches first: each once."""
        return tuple((size, dtype) for size in sorted({*self.batch_sizes}) for dtype in dict.fromkeys(self.dtypes))


@dataclass(frozen=True)
class Measured:
    """What a session found of one version."""

    session: str
    hardware: Hardware
    processes: tuple[Process, ...]
    cells: tuple[Cell, ...]


@dataclass
class _Found:
    """What is known so far of one version in one framework."""

    digest: str
    backend: Backend
    about: dict[str, Any] = field(default_factory=dict)
    """Device, threads, versions."""
    beginnings: list[Beginning] = field(default_factory=list)
    first_ms: dict[tuple[int, DType], list[float]] = field(default_factory=lambda: defaultdict(list))
    rounds: dict[tuple[int, DType], list[Round]] = field(default_factory=lambda: defaultdict(list))
    loads: list[Load] = field(default_factory=list)
    parity: float = 0.0


def add_benchmark(root: Place, digest: str, measured: Measured, stamp: Stamper) -> BenchmarkRecord:
    """Keep what was found of a version; `root` is the registry's `annotations` folder."""

    def added(number: int, last: BenchmarkRecord | None, previous: str | None) -> BenchmarkRecord:
        at, by, sequence = stamp((last and last.sequence) or 0)
        return BenchmarkRecord(
            number=number,
            at=at,
            by=by,
            sequence=sequence,
            version=digest,
            session=measured.session,
            hardware=measured.hardware,
            processes=measured.processes,
            cells=measured.cells,
            previous=previous,
        )

    record = ledger(root, digest, BenchmarkRecord).extend(added)
    assert record is not None, "a benchmark is always added"
    return record


def measure(
    digests: Sequence[str], plan: BenchmarkPlan, start: Start, progress: Progress = lambda done, total: None
) -> dict[str, Measured]:
    """Measure versions in one session; the result of each.

    Raises what keeps a version from being loaded: IntegrityError for a damaged one, UsageError for a framework that is
    not installed, DlhpcError when a process dies.
    """
    backends = tuple(dict.fromkeys(plan.backends))
    found = [_Found(digest, backend) for digest in digests for backend in backends]
    steps = _Steps(progress, len(found) * plan.processes * (2 + plan.rounds * len(plan.kinds) + LOADS))
    for number in range(plan.processes):
        _in_fresh_processes(found, number * plan.rounds, plan, start, steps)
    session, machine = secrets.token_hex(8), Hardware.model_validate(hardware())
    return {
        digest: Measured(
            session,
            machine,
            tuple(_process(each) for each in found if each.digest == digest),
            tuple(cell for each in found if each.digest == digest for cell in _cells(each)),
        )
        for digest in digests
    }


class _Steps:
    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0
        progress(0, total)

    def done(self) -> None:
        self._done += 1
        self._progress(self._done, self._total)


def _in_fresh_processes(found: Sequence[_Found], first: int, plan: BenchmarkPlan, start: Start, steps: _Steps) -> None:
    """One process for each; `first` is the number of the first round."""
    with ExitStack() as ending:
        subjects: list[tuple[_Found, Subject]] = []
        for each in found:
            subject = start(each.digest, each.backend)
            ending.callback(subject.close)
            each.about, beginning = subject.began()
            each.beginnings.append(beginning)
            subjects.append((each, subject))
            steps.done()
        for number in range(first, first + plan.rounds):
            for kind in plan.kinds:
                for each, subject in _in_turn(subjects, number):
                    first_ms, measured = subject.round(*kind, plan.seconds, plan.calls)
                    if number == first:
                        each.first_ms[kind].append(first_ms)
                    each.rounds[kind].append(measured)
                    steps.done()
        for number in range(LOADS):
            for each, subject in _in_turn(subjects, number):
                each.loads.append(subject.load())
                steps.done()
        for each, subject in subjects:
            each.parity = max(each.parity, subject.parity())
            steps.done()


def _in_turn(subjects: Sequence[tuple[_Found, Subject]], number: int) -> Sequence[tuple[_Found, Subject]]:
    return subjects if number % 2 == 0 else subjects[::-1]


def _process(each: _Found) -> Process:
    return Process(
        backend=each.backend,
        beginnings=tuple(each.beginnings),
        loads=tuple(each.loads),
        parity=each.parity,
        **each.about,
    )


def _cells(each: _Found) -> list[Cell]:
    return [
        Cell(
            backend=each.backend,
            batch_size=size,
            dtype=dtype,
            first_calls_ms=tuple(each.first_ms[size, dtype]),
            rounds=tuple(rounds),
        )
        for (size, dtype), rounds in each.rounds.items()
    ]
