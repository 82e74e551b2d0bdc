"""How fast an optimizer's step is: over the memory's own speed, and beside other libraries.

The limit is the time that a plain copy needs to move as many bytes as the rule must (each of x, g and the slots read
once, x and the slots written once). Rounds alternate between the copy and all implementations of a rule; ratios are
medians of ratios within a round. Where there are many parameters, `dlhpc, dispatch alone` is the same step over one
element of each: what handing over so many buffers costs before any of them is touched.
"""

from __future__ import annotations

import gc
import importlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dlhpc.errors import NotFoundError
from dlhpc.optimizers.rules import bind
from dlhpc.spec.optimizer import AdaBeliefSpec, AdamWSpec, AdanSpec, LionSpec, OptimizerSpec, SophiaSpec
from dlhpc.spec.run import Backend

SPECS: dict[str, OptimizerSpec] = {
    spec.name: spec for spec in (AdamWSpec(), LionSpec(), AdanSpec(), AdaBeliefSpec(), SophiaSpec())
}
WORKLOADS: dict[str, list[int]] = {
    "10M": [10_000_000],
    "100M": [100_000_000],
    "500-small": [20_000] * 500,
}
"""Elements of each float32 parameter."""

DISPATCH = "dlhpc, dispatch alone"

Step = Callable[[], None]
"""One update of all parameters, waited for."""


@dataclass(frozen=True)
class OptimizerResult:
    """One implementation of one rule on one workload."""

    backend: Backend
    workload: str
    optimizer: str
    implementation: str
    ms: float
    """Median time of a step."""
    bytes_per_element: int
    """That the rule must read and write."""
    over_limit: float
    """Time over the time of copying as many bytes."""
    times_ours: float
    """Time over that of this system's implementation."""
    temporary_bytes_per_element: float | None
    """Memory that the compiled program takes besides its arguments and results; None where nothing tells."""


def measure(
    backends: Sequence[Backend], workloads: Sequence[str], *, rounds: int, optimizers: Sequence[str] = tuple(SPECS)
) -> list[OptimizerResult]:
    """Every implementation of every rule that is installed."""
    return [
        result
        for backend in backends
        for workload in workloads
        for name in optimizers
        for result in _compare(backend, workload, SPECS[name], rounds)
    ]


def _compare(backend: Backend, workload: str, spec: OptimizerSpec, rounds: int) -> Iterator[OptimizerResult]:
    if workload not in WORKLOADS:
        raise NotFoundError(f"no workload {workload!r}: there are {', '.join(WORKLOADS)}")
    sizes = WORKLOADS[workload]
    contenders: Any = importlib.import_module(f"dlhpc.bench.{backend}_contenders")
    steps: dict[str, Step] = contenders.steps(spec, sizes)
    if len(sizes) > 1:
        steps[DISPATCH] = contenders.steps(spec, [1] * len(sizes))["dlhpc"]
    copy, copied = contenders.copy(sum(sizes))
    needed = _bytes_per_element(spec)
    times: dict[str, list[float]] = {name: [] for name in steps}
    limits: list[float] = []
    for step in (copy, *steps.values()):
        step()  # compiles, and makes the slots
    for _ in range(rounds):
        limits.append(_seconds(copy) / copied * needed * sum(sizes))
        for name, step in steps.items():
            times[name].append(_seconds(step))
    for name, seconds in times.items():
        yield OptimizerResult(
            backend,
            workload,
            spec.name,
            name,
            round(statistics.median(seconds) * 1e3, 3),
            needed,
            _median_ratio(seconds, limits),
            _median_ratio(seconds, times["dlhpc"]),
            None if name == DISPATCH else _temporary(contenders, steps[name], sum(sizes)),
        )
    del steps, copy
    gc.collect()


def _temporary(contenders: Any, step: Step, elements: int) -> float | None:
    taken: int | None = contenders.temporary_bytes(step)
    return None if taken is None else round(taken / elements, 2)


def _bytes_per_element(spec: OptimizerSpec) -> int:
    """Read x, g and the slots, write x and the slots, but for the one that only Hessian estimates change."""
    bound = bind(spec)
    return 4 * (3 + 2 * len(bound.slots) - (bound.curvature is not None))


def _seconds(step: Step) -> float:
    """The shortest of three: what other processes do only adds."""
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        step()
        best = min(best, time.perf_counter() - start)
    return best


def _median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    return round(statistics.median(a / b for a, b in zip(above, below, strict=True)), 3)
