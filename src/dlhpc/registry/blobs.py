"""Content-addressed files: a file's name is its sha256, so a reader needs nothing but the name to judge the bytes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from dlhpc.errors import IntegrityError
from dlhpc.files import fsync_folder, write_atomic
from dlhpc.registry.folders import entries, make_folder
from dlhpc.registry.manifest import sha256
from dlhpc.registry.progress import Progress, quiet

_RESTORE = "restore it from a backup, or publish the model again"


def content_path(root: Path, digest: str) -> Path:
    """Where the bytes of this digest lie."""
    return root / f"sha256/{digest[:2]}/{digest}"


def put(
    root: Path, content: bytes, *, digest: str | None = None, what: str = "a file", progress: Progress = quiet
) -> str:
    """Store bytes durably and return their digest. Bytes that are there already are checked, and mended if damaged.

    `digest` is theirs where it is known already; `what` they are is told to `progress`.
    """
    digest = digest or sha256(content)
    path = content_path(root, digest)
    make_folder(path.parent)
    if _read_or_none(path) == content:
        # Another process may have renamed it a moment ago without having reached its own fsync.
        fsync_folder(path.parent)
    else:
        progress(f"writing {what}", 0, len(content))
        write_atomic(path, content)
        progress(f"writing {what}", len(content), len(content))
    return digest


def read(
    root: Path,
    digest: str,
    what: str,
    size: int | None = None,
    progress: Progress = quiet,
    *,
    hashed: bool = True,
) -> bytes:
    """The bytes of a digest, read once and hashed as read; not `hashed`, only their number is compared with `size`.

    `what` says what they should be. Raises IntegrityError, naming the file, when they are missing, unreadable, of the
    wrong length or different.
    """
    path = content_path(root, digest)
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno()).st_size
            if size is not None and found != size:
                raise IntegrityError(f"{path}: {found} bytes, expected {size}: {what} is damaged; {_RESTORE}")
            progress(f"reading {what}", 0, found)
            content = file.read()
            progress(f"reading {what}", found, found)
    except FileNotFoundError as error:
        raise IntegrityError(f"{path}: missing: it holds {what}; {_RESTORE}") from error
    except OSError as error:
        raise IntegrityError(f"{path}: cannot be read ({error.strerror}): it holds {what}") from error
    actual = sha256(content) if hashed else digest
    if actual != digest:
        raise IntegrityError(f"{path}: sha256 is {actual}, expected {digest}: {what} is damaged; {_RESTORE}")
    return content


def digests(root: Path, prefix: str = "") -> Iterator[str]:
    """Every digest stored under `root` that begins with `prefix` (of two or more digits, if any), sorted."""
    base = root / "sha256"
    for shard in [prefix[:2]] if prefix else entries(base, "[0-9a-f]{2}"):
        for name in entries(base / shard, f"{shard}[0-9a-f]{{62}}"):
            if name.startswith(prefix):
                yield name


def _read_or_none(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
