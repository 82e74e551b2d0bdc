"""Measuring, comparing and promoting the versions of a registry: what the verbs of these names do.

A promotion moves an alias to a candidate that was verified, measured beside the version that the alias stands for, and
passed the gates. It moves from what was compared or not at all: when somebody else moved the alias meanwhile, nothing
happens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, cast

from dlhpc.errors import DlhpcError, UsageError
from dlhpc.registry.benchmark import BenchmarkPlan, Progress, Start, measure
from dlhpc.registry.benchmark_process import WorkerProcess
from dlhpc.registry.benchmark_record import BenchmarkRecord, DType
from dlhpc.registry.comparison import Comparison, compare, measured_together
from dlhpc.registry.gates import Gate, parse_gate
from dlhpc.registry.record_kinds import AliasRecord
from dlhpc.registry.refs import DigestRef, check_name, parse_ref, short
from dlhpc.registry.store import Registry
from dlhpc.spec.run import Backend

DEFAULT_GATES: Final = ("accuracy<-0.5pt", "p50>+25%", "parity>1e-4")
"""What a promotion asks for when nobody says otherwise."""


class PromotionRefusedError(DlhpcError):
    """Gates refuse a promotion; `promotion` says what was found."""

    def __init__(self, message: str, promotion: Promotion) -> None:
        super().__init__(message)
        self.promotion = promotion


@dataclass(frozen=True)
class Promotion:
    """What came of an attempt to promote."""

    name: str
    alias: str
    candidate: str
    """Digest of the version to promote."""
    before: str | None
    """Digest of the version that the alias stood for; None when it was never set."""
    comparison: Comparison | None
    """None when the alias stood for the candidate already."""
    move: AliasRecord | None
    """The move that was made; None when there was none."""

    def canonical(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "name": self.name,
            "alias": self.alias,
            "candidate": self.candidate,
            "before": self.before,
            "promoted": self.move is not None,
            "move": self.move and self.move.canonical(),
            "comparison": self.comparison and self.comparison.canonical(),
        }


def benchmark(
    registry: Registry,
    refs: Sequence[str],
    plan: BenchmarkPlan,
    *,
    progress: Progress = lambda done, total: None,
    start: Start | None = None,
) -> tuple[BenchmarkRecord, ...]:
    """Measure versions in one session, and add what was found to each.

    Raises what keeps a version from being read or loaded, NotFoundError for one that is published under no name, and
    DlhpcError, before anything is measured, where the registry cannot be written to.
    """
    with registry.adding_benchmarks(refs) as (digests, add):
        found = measure(digests, plan, start or process_starter(registry), progress)
        return tuple(add(digest, found[digest]) for digest in digests)


def compare_versions(
    registry: Registry,
    a: str,
    b: str,
    gates: Sequence[Gate] = (),
    *,
    plan: BenchmarkPlan | None = None,
    fresh: bool | None = None,
    progress: Progress = lambda done, total: None,
    start: Start | None = None,
) -> Comparison:
    """Compare two references. With `fresh` both are measured now; None: where a gate needs it; False: never.

    `plan` is what to measure; by default the frameworks that trained them, and what the gates name.
    """
    digests = registry.resolve(a), registry.resolve(b)
    compare(registry, *digests, gates)  # an unknown figure shows before anything is measured
    if fresh or (fresh is None and not measured_together(registry, *digests, gates)):
        own = plan or default_plan(registry, digests[1])
        refs = [f"sha256:{digest}" for digest in dict.fromkeys(digests)]
        benchmark(registry, refs, widened(own, gates), progress=progress, start=start)
    return compare(registry, *digests, gates)


def promote(
    registry: Registry,
    ref: str,
    alias: str,
    gates: Sequence[Gate] | None = None,
    *,
    override: bool = False,
    note: str = "",
    plan: BenchmarkPlan | None = None,
    fresh: bool | None = True,
    progress: Progress = lambda done, total: None,
    start: Start | None = None,
) -> Promotion:
    """Let an alias of the reference's name stand for its version, if the gates (DEFAULT_GATES) allow it.

    `override`, with a note that says why, moves it all the same. Raises PromotionRefusedError when a gate fails,
    UsageError when one cannot be answered, ConflictError when the alias was moved meanwhile, IntegrityError when the
    candidate is damaged.
    """
    parsed = parse_ref(ref)
    if isinstance(parsed, DigestRef):
        raise UsageError(f"{ref} has no name whose alias could move: write name:number or name@alias")
    check_name(alias, "alias")
    if override and not note.strip():
        raise UsageError("an override needs a note that says why: --note")
    gates = [parse_gate(text) for text in DEFAULT_GATES] if gates is None else gates
    name, candidate = parsed.name, registry.resolve(ref)
    registry.get(f"sha256:{candidate}")
    last = registry.last_move(name, alias)
    before = None if last is None else last.manifest
    if before == candidate:
        return Promotion(name, alias, candidate, before, None, None)
    compare(registry, before, candidate, gates)
    wanted = fresh or (fresh is None and not measured_together(registry, before, candidate, gates))
    if wanted and any(gate.is_measured for gate in gates):
        refs = [f"sha256:{digest}" for digest in (before, candidate) if digest is not None]
        own = plan or default_plan(registry, candidate)
        benchmark(registry, refs, widened(own, gates), progress=progress, start=start)
    found = Promotion(name, alias, candidate, before, compare(registry, before, candidate, gates), None)
    if not override:
        _refuse(found)
    moved = registry.set_alias(
        name, alias, f"sha256:{candidate}", note=_told(found, note, override), expected=last.number if last else 0
    )
    return replace(found, move=moved)


def default_plan(registry: Registry, digest: str) -> BenchmarkPlan:
    """A plan for the framework that trained a version."""
    return BenchmarkPlan(backends=(registry.manifest_of(digest).run.backend,))


def widened(plan: BenchmarkPlan, gates: Sequence[Gate]) -> BenchmarkPlan:
    """The plan, with the backends, batch sizes and types that gates name."""
    backends = [gate.backend for gate in gates if gate.backend is not None]
    sizes = [gate.batch_size for gate in gates if gate.batch_size is not None]
    dtypes = [gate.dtype for gate in gates if gate.dtype is not None]
    return replace(
        plan,
        backends=(*plan.backends, *(cast(Backend, each) for each in backends)),
        batch_sizes=(*plan.batch_sizes, *sizes),
        dtypes=(*plan.dtypes, *(cast(DType, each) for each in dtypes)),
    )


def process_starter(registry: Registry) -> Start:
    """Starts a process for each version and framework."""
    root = str(registry.root)
    return lambda digest, backend: WorkerProcess(root, digest, backend)


def _refuse(found: Promotion) -> None:
    assert found.comparison is not None
    what = f"{short(found.candidate)} is not promoted to {found.name}@{found.alias}"
    failed = found.comparison.verdicts_of("failed")
    if failed:
        reasons = "\n  ".join(map(str, failed))
        raise PromotionRefusedError(f"{what}:\n  {reasons}\nto promote it all the same: --override --note WHY", found)
    unanswered = found.comparison.verdicts_of("unmeasurable")
    if unanswered:
        reasons = "\n  ".join(map(str, unanswered))
        raise UsageError(f"{what}, since gates cannot be answered:\n  {reasons}")


def _told(found: Promotion, note: str, override: bool) -> str:
    """The note of the move: the mover's words, then what each gate said."""
    assert found.comparison is not None
    said = "; ".join(map(str, found.comparison.verdicts)) or "no gates"
    bad = bool(found.comparison.verdicts_of("failed") or found.comparison.verdicts_of("unmeasurable"))
    words = f"{note.strip()} " if note.strip() else ""
    return f"{words}[{'gates overridden' if override and bad else 'gates'}: {said}]"
