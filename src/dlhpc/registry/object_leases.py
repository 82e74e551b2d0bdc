"""Leases where there are no locks: in object stores.

    .leases/<host>.<pid>.<hex>.json    what one writer uses
    .leases/sweep                      a sweep is at work

A writer puts its lease, then looks whether a sweep is at work; a sweep puts its mark, then looks for leases. Each sees
what was put before, so at least one of the two sees the other: a writer waits for the sweep to end, a sweep leaves
alone what a lease names. Nobody knows here whether a process still lives. So a lease counts for a day, which is longer
than any publication, and a sweep ends by itself after a quarter of an hour, which writers wait out twice.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from dlhpc.errors import ConflictError
from dlhpc.registry.places import names
from dlhpc.registry.stores.object_store import ObjectPath

LEASES = ".leases"
LEASE_S = 86400.0
SWEEP_S = 900.0
_MARK = "sweep"
_LOOK_AGAIN_S = 2.0


@contextmanager
def lease(
    root: ObjectPath, paths: list[str], now: Callable[[], float] = time.time, wait_s: float = _LOOK_AGAIN_S
) -> Iterator[None]:
    """Hold a lease on `paths` (relative to the registry `root`). A sweep that is at work is waited for."""
    folder = root / LEASES
    own = folder / f"{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(4)}.json"
    own.write_bytes(json.dumps({"paths": paths}).encode())
    pause = threading.Event()
    try:
        while _changed_at(folder / _MARK) > now() - 2 * SWEEP_S:
            pause.wait(wait_s)
        yield
    finally:
        with suppress(FileNotFoundError):
            own.unlink()


@contextmanager
def removing(root: ObjectPath, now: Callable[[], float] = time.time) -> Iterator[Callable[[], bool]]:
    """Mark a sweep; gives a function that says whether it may still remove. ConflictError when another is at work."""
    mark = root / LEASES / _MARK
    if not mark.put_if_absent(secrets.token_bytes(16)):
        if _changed_at(mark) > now() - 2 * SWEEP_S:
            raise ConflictError(f"{mark}: another sweep is at work: try again in a few minutes")
        mark.write_bytes(secrets.token_bytes(16))  # of one that died
    began = now()
    try:
        yield lambda: now() - began < SWEEP_S
    finally:
        with suppress(FileNotFoundError):
            mark.unlink()


def held(root: ObjectPath, now: Callable[[], float] = time.time) -> tuple[frozenset[str], int, tuple[ObjectPath, ...]]:
    """The paths that writers use, the number of those writers, and the leases that are too old to count."""
    used: set[str] = set()
    living = 0
    stale: list[ObjectPath] = []
    folder = root / LEASES
    for name in sorted(names(folder)):
        path = folder / name
        with suppress(FileNotFoundError):  # it ended a moment ago
            if name == _MARK:
                continue
            if path.changed_at() <= now() - LEASE_S:
                stale.append(path)
                continue
            used.update(json.loads(path.read_bytes())["paths"])
            living += 1
    return frozenset(used), living, tuple(stale)


def _changed_at(mark: ObjectPath) -> float:
    try:
        return mark.changed_at()
    except FileNotFoundError:
        return 0.0
