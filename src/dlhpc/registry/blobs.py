"""Content-addressed files: a file's name is its sha256, so a reader needs nothing but the name to judge the bytes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from dlhpc.errors import IntegrityError
from dlhpc.files import fsync_folder, write_atomic
from dlhpc.registry import partial, parts
from dlhpc.registry.folders import entries
from dlhpc.registry.manifest import sha256
from dlhpc.registry.places import Place, make_folder, size
from dlhpc.registry.progress import Progress, quiet
from dlhpc.registry.stores.object_store import ObjectPath

_RESTORE = "restore it from a backup, or publish the model again"


def content_path(root: Place, digest: str) -> Place:
    """Where the bytes of this digest lie."""
    return root / "sha256" / digest[:2] / digest


def put(
    root: Place, content: bytes, *, digest: str | None = None, what: str = "a file", progress: Progress = quiet
) -> str:
    """Store bytes durably and return their digest. Bytes that are there already are checked, and mended if damaged.

    A big file whose writing was interrupted is gone on with. `digest` is that of the bytes where it is known already;
    `what` they are is told to `progress`.
    """
    digest = digest or sha256(content)
    path = content_path(root, digest)
    make_folder(path.parent)

    def told(done: int) -> None:
        progress(f"writing {what}", done, len(content))

    if isinstance(path, ObjectPath):
        _put_object(path, content, told)
    elif partial.is_whole(path, content):
        # Another process may have renamed it a moment ago without having reached its own fsync.
        fsync_folder(path.parent)
    elif len(content) >= partial.RESUMED_FROM:
        partial.write_resumable(path, content, told)
    else:
        write_atomic(path, content)
        told(len(content))
    return digest


def read(
    root: Place,
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

    def told(done: int) -> None:
        progress(f"reading {what}", done, max(done, size or 0))

    try:
        content = _read(path, what, size, told)
    except FileNotFoundError as error:
        joined = parts.read_parts(path, size, what, told)
        if joined is None:
            raise IntegrityError(f"{path}: missing: it holds {what}; {_RESTORE}") from error
        content = joined
    except OSError as error:
        raise IntegrityError(f"{path}: cannot be read ({error.strerror}): it holds {what}") from error
    actual = sha256(content) if hashed else digest
    if actual != digest:
        raise IntegrityError(f"{path}: sha256 is {actual}, expected {digest}: {what} is damaged; {_RESTORE}")
    return content


def digests(root: Place, prefix: str = "") -> Iterator[str]:
    """Every digest stored under `root` that begins with `prefix` (of two or more digits, if any), sorted."""
    base = root / "sha256"
    for shard in [prefix[:2]] if prefix else entries(base, "[0-9a-f]{2}"):
        found = entries(base / shard, rf"{shard}[0-9a-f]{{62}}({parts.SUFFIX})?")
        for name in sorted({each.removesuffix(parts.SUFFIX) for each in found}):
            if name.startswith(prefix):
                yield name


def pieces(root: Place, digest: str) -> list[Place]:
    """The files that hold the bytes of a digest: one, or its parts."""
    path = content_path(root, digest)
    return ([path] if path.exists() else []) + parts.parts_of(path)


def stored_size(root: Place, digest: str) -> int:
    """Bytes that a digest takes."""
    return sum(size(piece) for piece in pieces(root, digest))


def _read(path: Place, what: str, size: int | None, told: Callable[[int], None]) -> bytes:
    if isinstance(path, Path):
        with path.open("rb") as file:
            found = os.fstat(file.fileno()).st_size
            if size is not None and found != size:
                raise IntegrityError(f"{path}: {found} bytes, expected {size}: {what} is damaged; {_RESTORE}")
            told(0)
            content = file.read()
    else:
        content = path.read_bytes()
        if size is not None and len(content) != size:
            raise IntegrityError(f"{path}: {len(content)} bytes, expected {size}: {what} is damaged; {_RESTORE}")
    told(len(content))
    return content


def _put_object(path: ObjectPath, content: bytes, told: Callable[[int], None]) -> None:
    if len(content) > parts.PART_BYTES:
        parts.write_parts(path, content, told)
        return
    try:
        is_there = path.read_bytes() == content
    except FileNotFoundError:
        is_there = False
    if not is_there:
        path.write_bytes(content)
        told(len(content))
