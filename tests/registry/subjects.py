"""Versions that are said to take this long: what benchmarks, comparisons and promotions make of figures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dlhpc.registry.benchmark_process import Subject
from dlhpc.registry.benchmark_record import Beginning, DType, Load, Round
from dlhpc.spec.run import Backend


class Scripted:
    """A Subject whose p50 is `pace` times the batch size, in ms; what it is asked goes into a diary."""

    def __init__(self, digest: str, backend: Backend, pace: float, parity: float, diary: list[tuple[Any, ...]]) -> None:
        self.who, self.pace, self.agreement, self.diary = (digest, backend), pace, parity, diary
        self.asked = 0

    def began(self) -> tuple[dict[str, Any], Beginning]:
        self.diary.append((*self.who, "began"))
        about = {"device": "cpu", "threads": 2, "versions": {"python": "3"}}
        return about, Beginning(import_ms=900.0, first_load_ms=90.0, loaded_mb=300.0)

    def round(self, batch_size: int, dtype: DType, seconds: float, calls: int | None) -> tuple[float, Round]:
        self.diary.append((*self.who, batch_size, dtype))
        self.asked += 1
        mood = 1 + self.asked % 3  # the machine's, the same for all in a round
        p50 = self.pace * batch_size * mood
        found = Round(calls=calls or 7, p50_ms=p50, p99_ms=2 * p50, throughput=1e3 * batch_size / p50, memory_mb=400.0)
        return 50.0 * self.pace, found

    def load(self) -> Load:
        self.diary.append((*self.who, "load"))
        return Load(read_ms=1.0, build_ms=self.pace)

    def parity(self) -> float:
        return self.agreement

    def close(self) -> None:
        self.diary.append((*self.who, "closed"))


class Stage:
    """Starts scripted subjects: `paces` by digest (1 unless said), `parities` by digest (0 unless said)."""

    def __init__(self, paces: dict[str, float] | None = None, parities: dict[str, float] | None = None) -> None:
        self.paces, self.parities = paces or {}, parities or {}
        self.diary: list[tuple[Any, ...]] = []
        self.before_start: Callable[[], None] = lambda: None

    def __call__(self, digest: str, backend: Backend) -> Subject:
        self.before_start()
        pace, parity = self.paces.get(digest, 1.0), self.parities.get(digest, 0.0)
        return Scripted(digest, backend, pace, parity, self.diary)
