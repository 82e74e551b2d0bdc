"""Big files that are written on after an interruption, instead of anew.

A big file is written to `.<name>.partial` beside its place, a name that the next writer of the same bytes finds again.
What lies there is compared with what it should be, and writing goes on where the two part. A writer locks the file; a
second one, and a file system without locks, fall back to a file of their own. Nothing is ever truncated to less than
the whole, so even two writers that do not see each other's locks write the same bytes to the same places.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final

from dlhpc.files import fsync_folder, write_atomic

RESUMED_FROM: Final = 32 * 2**20
"""Bytes from which on a file is worth it."""
CHUNK_BYTES: Final = 8 * 2**20
SUFFIX: Final = ".partial"


def write_resumable(path: Path, content: bytes, told: Callable[[int], None]) -> None:
    """Write a file that is whole or absent, going on where an interrupted writer of the same bytes stopped.

    `told` gets the number of bytes that are there, as they grow.
    """
    partial = path.with_name(f".{path.name}{SUFFIX}")
    with os.fdopen(os.open(partial, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0) as file:
        if not _own(file, partial):
            write_atomic(path, content)
            return
        done = common_prefix(file, content)
        file.seek(done)
        view = memoryview(content)
        while done < len(content):
            told(done)
            done += file.write(view[done : done + CHUNK_BYTES])
        file.truncate(len(content))
        os.fsync(file.fileno())
        partial.replace(path)
    fsync_folder(path.parent)
    told(done)


def is_whole(path: Path, content: bytes) -> bool:
    """Whether a file holds exactly these bytes."""
    try:
        with path.open("rb", buffering=0) as file:
            return os.fstat(file.fileno()).st_size == len(content) == common_prefix(file, content)
    except OSError:
        return False


def common_prefix(file: BinaryIO, content: bytes) -> int:
    """How many bytes from the beginning of a file are those of `content`, in whole chunks up to the last."""
    view = memoryview(content)
    done = 0
    while done < len(content):
        chunk = file.read(CHUNK_BYTES)
        if not chunk or chunk != view[done : done + len(chunk)]:
            break
        done += len(chunk)
    return done


def _own(file: BinaryIO, partial: Path) -> bool:
    """Lock the file; False when another writer has it, has just put it in place, or when there are no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return partial.stat().st_ino == os.fstat(file.fileno()).st_ino
    except OSError:
        return False
