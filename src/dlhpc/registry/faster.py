"""Which framework answers a model faster on this machine: measured once, remembered by the node.

Each framework loads the version in a fresh process of its own (benchmark_process.py), as a server would, and they take
turns at the smallest and the largest batch of a server. What matters is the model's shape and not its weights, so a
verdict holds for every version of a model, as long as the frameworks' versions and the hardware stay.
"""

from __future__ import annotations

import logging
import math
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol

from dlhpc.errors import DlhpcError, UsageError
from dlhpc.monitoring.machine import hardware
from dlhpc.registry.benchmark_process import Subject
from dlhpc.registry.cache import NodeCache
from dlhpc.registry.environment import environment
from dlhpc.registry.manifest import sha256
from dlhpc.spec.base import canonical_json
from dlhpc.spec.run import Backend, RunSpec

LOG = logging.getLogger(__name__)
ROUNDS: Final = 5
SECONDS: Final = 0.1
"""Of calls in each round: 2 s in all, for two frameworks and two batch sizes."""
LIMIT_S: Final = 60.0
"""Longest that measuring may take: the frameworks' imports and what they compile included."""
MARGIN: Final = 1.05
"""The other framework has to be faster by this factor: a tie does not change what computes."""
_POLL_S: Final = 0.05
_STOPPED: Final = "it was told to stop"


class Endable(Subject, Protocol):
    """A Subject whose process can be ended by another thread."""

    def end(self) -> None:
        """End it at once: who waits for an answer gets a DlhpcError."""
        ...


Start = Callable[[Backend], Endable]
"""Loads the version in a framework."""


@dataclass(frozen=True)
class Choice:
    """The framework that computes, and why."""

    backend: Backend
    reason: str


@dataclass(frozen=True)
class Measuring:
    """What is measured, with what, and how long it may take."""

    run: RunSpec
    """The version's run."""
    batch_sizes: tuple[int, ...]
    conditions: Mapping[str, str]
    """What else bears on speed: another value is measured anew."""
    start: Start
    cache: NodeCache
    """The node's: it remembers."""
    is_unwanted: Callable[[], bool] = lambda: False
    """Asked again and again: whether to give up."""
    limit_s: float = LIMIT_S


def choose(measuring: Measuring, installed: Sequence[Backend]) -> Choice:
    """The framework that answers faster; the one that trained the version where that cannot be known.

    The other has to be faster by MARGIN, over all batch sizes alike. Raises nothing but UsageError, when no framework
    is installed: measuring that fails is told in the reason.
    """
    trained = measuring.run.backend
    if len(installed) < 2:
        if not installed:
            raise UsageError("no framework is installed: pip install 'deep-learning-hpc-demo[flax]', or [torch]")
        return Choice(installed[0], "the only framework installed")
    question = _question(measuring, installed)
    key = sha256(canonical_json(question))
    times, how = _remembered(measuring.cache, key, question), "measured before"
    if times is None:
        try:
            times, how = _times(measuring, installed), "measured now"
        except (DlhpcError, OSError) as error:
            text = str(error).partition("\n")[0]
            LOG.warning("backend auto: %s", error)
            return Choice(trained, f"it trained the model; measuring failed: {text}")
        _remember(measuring.cache, key, {**question, "ms": times})
    return _verdict(times, trained, how)


def _question(measuring: Measuring, installed: Sequence[Backend]) -> dict[str, Any]:
    """All that the verdict depends on."""
    return {
        "format": 1,
        "model": measuring.run.model.canonical(),
        "batch_sizes": list(measuring.batch_sizes),
        "conditions": dict(measuring.conditions),
        "hardware": hardware(),
        "versions": {backend: environment(backend) for backend in sorted(installed)},
    }


def _verdict(times: Mapping[str, Mapping[str, float]], trained: Backend, how: str) -> Choice:
    """`times`: framework -> batch size -> median milliseconds of a call."""
    means = {name: math.exp(statistics.fmean(map(math.log, by_size.values()))) for name, by_size in times.items()}
    fastest = min(means, key=lambda name: means[name])
    chosen = fastest if means[fastest] * MARGIN < means.get(trained, math.inf) else trained
    sizes = " and ".join(next(iter(times.values())))
    told = ", ".join(
        f"{name} {' and '.join(f'{ms:.3g}' for ms in by_size.values())}" for name, by_size in times.items()
    )
    backend: Backend = "flax" if chosen == "flax" else "torch"
    tie = "" if chosen == fastest else "; it trained the model, and the other is hardly faster"
    return Choice(backend, f"{how}, ms for {sizes} images: {told}{tie}")


def _times(measuring: Measuring, installed: Sequence[Backend]) -> dict[str, dict[str, float]]:
    """Median milliseconds of a call. Raises DlhpcError when a process fails, or the time is over."""
    found: dict[str, dict[int, list[float]]] = {
        backend: {size: [] for size in measuring.batch_sizes} for backend in installed
    }
    with ExitStack() as ending:
        subjects = []
        for backend in installed:  # all at once: they import at the same time
            subject = measuring.start(backend)
            ending.callback(subject.close)
            subjects.append((backend, subject))
        with _bounded([subject for _, subject in subjects], measuring):
            for _, subject in subjects:
                subject.began()
            for number in range(ROUNDS):
                for size in measuring.batch_sizes:
                    for backend, subject in subjects if number % 2 == 0 else subjects[::-1]:
                        _, measured = subject.round(size, "uint8", SECONDS, None)
                        found[backend][size].append(measured.p50_ms)
    return {
        backend: {str(size): statistics.median(rounds) for size, rounds in by_size.items()}
        for backend, by_size in found.items()
    }


@contextmanager
def _bounded(subjects: Sequence[Endable], measuring: Measuring) -> Iterator[None]:
    """End the subjects when the time is over or nobody wants the verdict any more; DlhpcError then."""
    end, over = time.monotonic() + measuring.limit_s, threading.Event()
    why: list[str] = []

    def watch() -> None:
        while not over.wait(_POLL_S):
            if measuring.is_unwanted():
                why.append(_STOPPED)
            elif time.monotonic() > end:
                why.append(f"it took longer than {measuring.limit_s:g} s")
            if why:
                for subject in subjects:
                    subject.end()
                return

    watcher = threading.Thread(target=watch, name="measuring", daemon=True)
    watcher.start()
    try:
        yield
    except DlhpcError as error:
        if not why and measuring.is_unwanted():  # Ctrl-C reaches the processes too, and they may be faster
            why.append(_STOPPED)
        raise DlhpcError(why[0]) if why else error from None
    finally:
        over.set()
        watcher.join()


def _remembered(cache: NodeCache, key: str, question: Mapping[str, Any]) -> dict[str, dict[str, float]] | None:
    """The times of a question that was asked before; None for another, or for what this version did not write."""
    kept = None
    with suppress(UsageError):  # told when the verdict is to be remembered
        kept = cache.note(key)
    if not isinstance(kept, dict) or {name: value for name, value in kept.items() if name != "ms"} != dict(question):
        return None
    try:
        times = {
            backend: {str(size): float(kept["ms"][backend][str(size)]) for size in question["batch_sizes"]}
            for backend in question["versions"]
        }
    except (KeyError, TypeError, ValueError):
        return None
    return times if all(0 < ms < math.inf for by_size in times.values() for ms in by_size.values()) else None


def _remember(cache: NodeCache, key: str, content: Mapping[str, Any]) -> None:
    try:
        cache.keep_note(key, content)
    except UsageError as error:
        LOG.warning("backend auto: the verdict is not remembered: %s", error)
