"""What was measured of a version: figures of one run of `registry benchmark`, bound to the version's digest.

Times are milliseconds, sizes MB (10^6 bytes), throughput images per second. Each round's figures are kept, since rounds
that were measured side by side can be compared one by one, while the machine's mood changes between them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dlhpc.registry.record_kinds import RemarkRecord
from dlhpc.spec.base import NonNegativeFloat, PositiveFloat, PositiveInt, Spec
from dlhpc.spec.run import Backend

DType = Literal["uint8", "float32"]
DTYPES: tuple[DType, ...] = ("uint8", "float32")
Session = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]


class Hardware(Spec):
    """The machine: figures of two machines are not compared."""

    processor: str
    cores: PositiveInt
    """That the process could use."""
    memory_gib: PositiveInt
    system: str

    def __str__(self) -> str:
        return f"{self.processor}, {self.cores} cores, {self.memory_gib} GiB, {self.system}"


class Round(Spec):
    """Calls of one size and type, one after the other."""

    calls: PositiveInt
    p50_ms: PositiveFloat
    """Median time of a call."""
    p99_ms: PositiveFloat
    """99% of the calls took no longer; of few calls, the slowest."""
    throughput: PositiveFloat
    """Images per second, over all calls of the round."""
    memory_mb: PositiveFloat
    """The most that the process held in memory meanwhile, framework included; not the accelerator's own memory."""


class Cell(Spec):
    """One backend, batch size and input type."""

    backend: Backend
    batch_size: PositiveInt
    dtype: DType
    first_calls_ms: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)]
    """The first call of each process, which compiles."""
    rounds: Annotated[tuple[Round, ...], Field(min_length=1)]


class Load(Spec):
    """One load of the version, by a process that has loaded it before."""

    read_ms: PositiveFloat
    """Reading and hashing every byte."""
    build_ms: PositiveFloat
    """Making a predictor of the bytes."""


class Beginning(Spec):
    """What it took a fresh process to be ready."""

    import_ms: PositiveFloat
    """Importing the framework."""
    first_load_ms: PositiveFloat
    """The first load, which also wakes the framework and its device."""
    loaded_mb: PositiveFloat
    """Held in memory once the version was loaded, before the first call."""


class Process(Spec):
    """One backend, in processes of its own, one after the other."""

    backend: Backend
    device: str
    """`cpu`, or the accelerator's name."""
    threads: PositiveInt
    """Threads of the host that one operation may use."""
    versions: dict[str, str]
    """Of Python and the packages that computed."""
    beginnings: Annotated[tuple[Beginning, ...], Field(min_length=1)]
    """Of each process."""
    loads: Annotated[tuple[Load, ...], Field(min_length=1)]
    parity: NonNegativeFloat
    """Largest difference of a class probability to the golden answers, which are stored with the version."""


class BenchmarkRecord(RemarkRecord):
    """What one run measured of a version."""

    folder = "benchmarks"
    kind: Literal["benchmark"] = "benchmark"
    session: Session
    """The run: versions that share one were measured in turns."""
    hardware: Hardware
    processes: Annotated[tuple[Process, ...], Field(min_length=1)]
    cells: Annotated[tuple[Cell, ...], Field(min_length=1)]
