"""Leases: a writer says what it is about to use, so that gc leaves it alone.

    .leases/lock                       held for a moment by a writer that begins, and by gc while it removes
    .leases/<host>.<pid>.<hex>.json    what one writer uses; the file is locked as long as the writer lives

The locks are the kernel's: a writer that is killed loses them at once, so its lease is known to be stale without
heartbeats, clocks or process numbers that may be used again. Why nothing in use is removed: a writer announces its
lease under the lock before it looks at any file, and gc removes under the lock. So gc sees the lease, or the writer
finds the file gone and writes it anew, or the writer has finished and gc sees its label.

Where a file system has no locks writers write all the same, and gc refuses. A network file system may be mounted with
locks that other hosts do not see: so an unlocked lease of another host counts as held during the grace period.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from dlhpc.errors import DlhpcError
from dlhpc.registry import object_leases
from dlhpc.registry.places import Place
from dlhpc.registry.stores.object_store import ObjectPath

LEASES = ".leases"
_LOCK = "lock"
_UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)


@dataclass(frozen=True)
class Leases:
    """The leases of a registry, as gc found them."""

    used: frozenset[str]
    """Paths, relative to the registry, that living writers use."""
    living: int
    """Writers at work."""
    stale: tuple[Place, ...]
    """Leases of writers that died."""
    may_remove: Callable[[], bool] = lambda: True
    """Whether there is time left to remove something."""

    def protects(self, path: str) -> bool:
        """Whether a writer uses this path, something in it, or a folder that it is in."""
        return any(path == used or path.startswith(f"{used}/") or used.startswith(f"{path}/") for used in self.used)


@contextmanager
def lease(root: Place, paths: list[str]) -> Iterator[None]:
    """Hold a lease on `paths` (relative to the registry `root`; a folder stands for all in it)."""
    if isinstance(root, ObjectPath):
        with object_leases.lease(root, paths):
            yield
        return
    folder = root / LEASES
    folder.mkdir(exist_ok=True)
    path = folder / f"{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(4)}.json"
    with ExitStack() as ending:
        with _locked(folder, fcntl.LOCK_SH):
            own = ending.enter_context(path.open("xb", buffering=0))
            ending.callback(path.unlink, missing_ok=True)
            _flock(own.fileno(), fcntl.LOCK_EX)
            own.write(json.dumps({"paths": paths}).encode())
        yield


@contextmanager
def removing(root: Place, cutoff: float) -> Iterator[Leases]:
    """Keep writers from beginning, and give the leases of those that have. Raises DlhpcError where nothing can lock.

    `cutoff` (seconds since 1970) is when the grace period began.
    """
    if isinstance(root, ObjectPath):
        with object_leases.removing(root) as may_remove:
            yield replace(held(root, cutoff), may_remove=may_remove)
        return
    folder = root / LEASES
    folder.mkdir(exist_ok=True)
    with _locked(folder, fcntl.LOCK_EX) as works:
        if not works:
            raise DlhpcError(
                f"{folder}: this file system has no locks, so nobody can tell what running publications use; "
                "run gc where the folder lies"
            )
        yield held(root, cutoff)


def held(root: Place, cutoff: float) -> Leases:
    """The leases of a registry now. Writes nothing."""
    if isinstance(root, ObjectPath):
        return Leases(*object_leases.held(root))
    used: set[str] = set()
    stale: list[Path] = []
    living = 0
    for path in sorted((root / LEASES).glob("*.json")):
        try:
            with path.open("rb") as file:
                free = _flock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
                if free and (_is_from_here(path) or os.fstat(file.fileno()).st_mtime <= cutoff):
                    stale.append(path)
                    continue
                living += 1
                used.update(json.loads(file.read())["paths"])
        except (FileNotFoundError, ValueError):  # it ended a moment ago, or began; the latter not while gc removes
            continue
    return Leases(frozenset(used), living, tuple(stale))


def _is_from_here(path: Path) -> bool:
    return path.name.rsplit(".", 3)[0] == socket.gethostname()


@contextmanager
def _locked(folder: Path, how: int) -> Iterator[bool]:
    """Hold the registry's lock; False when the file system has none."""
    with (folder / _LOCK).open("ab") as lock:
        yield _flock(lock.fileno(), how)


def _flock(descriptor: int, how: int) -> bool:
    """Lock an open file; False when another has it, or when the file system has no locks."""
    try:
        fcntl.flock(descriptor, how)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return False
        raise
    return True
