"""Figures of a version by name: what tables show and gates ask for."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from dlhpc.registry.benchmark_record import BenchmarkRecord, Cell, Process

MEASURED: Final[dict[str, str]] = {
    "p50": "ms",
    "p99": "ms",
    "throughput": "/s",
    "memory": "MB",
    "first_call": "ms",
    "load": "ms",
    "parity": "",
}
"""Figures of benchmarks, and their units."""
OF_MANIFEST: Final[dict[str, str]] = {"size": "MB"}
"""Figures that a manifest gives besides its metrics, and their units."""


@dataclass(frozen=True)
class Place:
    """What a figure is of; None where it does not depend on that."""

    figure: str
    backend: str | None = None
    batch_size: int | None = None
    dtype: str | None = None

    def __str__(self) -> str:
        """As a gate names it: `p99[torch,1,uint8]`."""
        parts = [str(part) for part in (self.backend, self.batch_size, self.dtype) if part is not None]
        return f"{self.figure}[{','.join(parts)}]" if parts else self.figure

    @property
    def unit(self) -> str:
        """`ms`, `/s`, `MB`, or nothing."""
        return (MEASURED | OF_MANIFEST).get(self.figure, "")


@dataclass(frozen=True)
class Figure:
    """A value, of one or several rounds."""

    rounds: tuple[float, ...]

    @property
    def value(self) -> float:
        """The median over the rounds."""
        return statistics.median(self.rounds)


def figures(record: BenchmarkRecord) -> dict[Place, Figure]:
    """The figures of a benchmark."""
    found = dict(pair for cell in record.cells for pair in _of_cell(cell))
    return found | dict(pair for process in record.processes for pair in _of_process(process))


def _of_cell(cell: Cell) -> Iterator[tuple[Place, Figure]]:
    kind = (cell.backend, cell.batch_size, cell.dtype)
    yield Place("p50", *kind), Figure(tuple(each.p50_ms for each in cell.rounds))
    yield Place("p99", *kind), Figure(tuple(each.p99_ms for each in cell.rounds))
    yield Place("throughput", *kind), Figure(tuple(each.throughput for each in cell.rounds))
    yield Place("memory", *kind), Figure(tuple(each.memory_mb for each in cell.rounds))
    yield Place("first_call", *kind), Figure(cell.first_calls_ms)


def _of_process(process: Process) -> Iterator[tuple[Place, Figure]]:
    yield Place("load", process.backend), Figure(tuple(each.read_ms + each.build_ms for each in process.loads))
    yield Place("parity", process.backend), Figure((process.parity,))
