"""What versions on trial are judged by: counts of each version's answers, and how often a shadow agrees."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass

import numpy as np

from dlhpc.serving.batching import Row


@dataclass(frozen=True)
class Counts:
    """Images that one version has computed, since some moment."""

    answers: int = 0
    """Those whose computation has ended, however it did."""
    failed: int = 0
    seconds: float = 0.0
    """From the end of their reading to their answers, all together."""
    compared: int = 0
    """Those that the version answered as a shadow."""
    differed: int = 0
    """Those of them for which another class was the most probable one."""

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(mine + its for mine, its in zip(astuple(self), astuple(other), strict=True)))

    def since(self, before: Counts) -> Counts:
        """What has come since; all of it when the counting has begun anew meanwhile."""
        if before.answers > self.answers or before.compared > self.compared:
            return self
        return Counts(*(mine - its for mine, its in zip(astuple(self), astuple(before), strict=True)))


class Tally:
    """Counts the images of one lane. The batcher tells it of each."""

    def __init__(self) -> None:
        self._answers = self._failed = self._compared = self._differed = 0
        self._seconds = 0.0

    @property
    def counts(self) -> Counts:
        """All so far."""
        return Counts(self._answers, self._failed, self._seconds, self._compared, self._differed)

    def ended(self, seconds: float, *, has_failed: bool) -> None:
        """Count an image whose computation has ended."""
        self._answers += 1
        self._failed += has_failed
        self._seconds += seconds

    def compared(self, *, has_differed: bool) -> None:
        """Count an image that a shadow has answered too."""
        self._compared += 1
        self._differed += has_differed


def has_failed(future: asyncio.Future[Row]) -> bool:
    """Whether the model failed on an image; what came too late, or whose client left, is only slow."""
    if future.cancelled():
        return False
    error = future.exception()
    return error is not None and not isinstance(error, TimeoutError)


def label(classes: tuple[str, ...], row: Row) -> str:
    """The most probable class."""
    return classes[int(np.argmax(row))]


class Recent:
    """The counts of the last seconds, from the replicas' counts since they began."""

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._seen: deque[tuple[float, Mapping[tuple[str, str], Counts]]] = deque()

    def add(self, now: float, counts: Iterable[tuple[str, str, Counts]]) -> None:
        """Take note of (replica, digest, its counts)."""
        joined: dict[tuple[str, str], Counts] = {}
        for replica, digest, each in counts:
            joined[replica, digest] = joined.get((replica, digest), Counts()) + each
        self._seen.append((now, joined))
        while len(self._seen) > 1 and self._seen[1][0] <= now - self._window_s:
            self._seen.popleft()

    def of(self, digest: str) -> Counts:
        """What a version has done in all replicas that there are now."""
        if not self._seen:
            return Counts()
        first, last = self._seen[0][1], self._seen[-1][1]
        total = Counts()
        for key, counts in last.items():
            if key[1] == digest:
                total += counts.since(first.get(key, Counts()))
        return total
