"""Benchmarks of versions: what loading and answering cost, in each framework, batch size and input type.

Every version is loaded in a process of its own per framework, as a server would: read, hashed, built. Then all take
turns, round by round and in alternating order, so that what the machine does meanwhile hits all alike. What is told is
the median over the rounds; versions that were measured in one session may be compared round by round.
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
from dlhpc.registry.benchmark_record import DTYPES, BenchmarkRecord, Cell, DType, Hardware, Load, Process, Round
from dlhpc.registry.places import Place
from dlhpc.registry.record_kinds import Stamper
from dlhpc.registry.remarks import ledger
from dlhpc.spec.run import Backend

BACKENDS: Final[tuple[Backend, ...]] = get_args(Backend)
LARGEST_BATCH = 65536
MOST_LOADS = 5

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
    rounds: int = 15
    """Turns of each: many short ones, so that a ratio of two neighbours in time tells little of the machine's mood."""
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
        if self.rounds < 1 or not 0 < self.seconds < math.inf or (self.calls is not None and self.calls < 1):
            raise UsageError("nothing to measure: rounds, seconds and calls must be positive, and end")

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
    subject: Subject
    began: dict[str, Any]
    first_ms: dict[tuple[int, DType], float] = field(default_factory=dict)
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
    loads = min(plan.rounds, MOST_LOADS)
    steps = _Steps(progress, len(digests) * len(backends) * (2 + plan.rounds * len(plan.kinds) + loads))
    with ExitStack() as ending:
        found: list[_Found] = []
        for digest in digests:
            for backend in backends:
                found.append(_begin(ending, start, digest, backend))
                steps.done()
        for number in range(plan.rounds):
            for kind in plan.kinds:
                for each in _in_turn(found, number):
                    each.first_ms[kind], measured = each.subject.round(*kind, plan.seconds, plan.calls)
                    each.rounds[kind].append(measured)
                    steps.done()
        for number in range(loads):
            for each in _in_turn(found, number):
                each.loads.append(each.subject.load())
                steps.done()
        for each in found:
            each.parity = each.subject.parity()
            steps.done()
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


def _begin(ending: ExitStack, start: Start, digest: str, backend: Backend) -> _Found:
    subject = start(digest, backend)
    ending.callback(subject.close)
    return _Found(digest, backend, subject, subject.began())


def _in_turn(found: Sequence[_Found], number: int) -> Sequence[_Found]:
    return found if number % 2 == 0 else found[::-1]


def _process(each: _Found) -> Process:
    return Process(backend=each.backend, loads=tuple(each.loads), parity=each.parity, **each.began)


def _cells(each: _Found) -> list[Cell]:
    return [
        Cell(
            backend=each.backend,
            batch_size=size,
            dtype=dtype,
            first_call_ms=each.first_ms[size, dtype],
            rounds=tuple(rounds),
        )
        for (size, dtype), rounds in each.rounds.items()
    ]
