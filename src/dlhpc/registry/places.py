"""Places: a registry lies in a folder or in an object store, file by key. What the two do differently is done here."""

from __future__ import annotations

import errno
import os
import secrets
from pathlib import Path

from dlhpc.errors import DlhpcError, UsageError
from dlhpc.files import fsync_folder, write_atomic
from dlhpc.registry.stores.object_store import ObjectPath
from dlhpc.spec.location import check_location

Place = Path | ObjectPath
"""A file or folder, or an object or prefix."""


def place(location: Place | str) -> Place:
    """The place of a folder or URL. Raises UsageError for a URL that is none of a registry."""
    if not isinstance(location, str):
        return location
    try:
        location = check_location(location)
    except ValueError as error:
        raise UsageError(f"registry: {error}") from error
    return ObjectPath.parse(location) if "://" in location else Path(location)


def names(folder: Place) -> list[str]:
    """What is in a folder. Raises OSError where there is no folder; a prefix without objects is empty."""
    return os.listdir(folder) if isinstance(folder, Path) else list(folder.sizes())


def make_folder(folder: Place) -> None:
    """Create a folder and its parents so that they survive a power cut. Object stores have no folders."""
    if not isinstance(folder, Path) or folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    fsync_folder(folder.parent)


def create(path: Place, content: bytes) -> bool:
    """Write a file durably if there is none of that name; False when there is, whatever others do meanwhile."""
    if not isinstance(path, Path):
        return path.create(content)
    aside = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with aside.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(aside, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno in (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS):
                raise DlhpcError(
                    f"{path.parent}: this file system has no hard links, which publishing needs; "
                    "use a registry on another"
                ) from error
            raise
        fsync_folder(path.parent)
        return True
    finally:
        aside.unlink(missing_ok=True)


def claim(path: Place) -> bool:
    """Create a file that says nothing but its name; False when there is one."""
    if not isinstance(path, Path):
        return path.create(secrets.token_bytes(16))  # so that a writer can tell its own
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except FileExistsError:
        return False
    return True


def replace(path: Place, content: bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, never a part."""
    if isinstance(path, Path):
        write_atomic(path, content)
    else:
        path.write_bytes(content)


def settle(folder: Place) -> None:
    """Make a folder's entries survive a power cut; an object store's do."""
    if isinstance(folder, Path):
        fsync_folder(folder)


def size(path: Place) -> int:
    """Length in bytes."""
    return path.stat().st_size if isinstance(path, Path) else path.size()


def sizes(folder: Place) -> dict[str, int]:
    """Length in bytes of each file in a folder; empty where there is none."""
    if not isinstance(folder, Path):
        return folder.sizes()
    try:
        return {each.name: each.stat().st_size for each in os.scandir(folder)}
    except (FileNotFoundError, NotADirectoryError):
        return {}


def age_and_size(path: Place) -> tuple[float, int]:
    """When it was written (seconds since 1970), and the bytes that its removal frees."""
    if not isinstance(path, Path):
        return path.changed_at(), path.size()
    status = path.lstat()
    # A record that was linked into place shares its bytes with the file beside it.
    return status.st_mtime, status.st_size if status.st_nlink == 1 else 0


def relative(path: Place, root: Place) -> str:
    """A path below a registry's root, with slashes."""
    if isinstance(path, Path) and isinstance(root, Path):
        return path.relative_to(root).as_posix()
    assert isinstance(path, ObjectPath), "both lie in one registry"
    assert isinstance(root, ObjectPath), "both lie in one registry"
    return path.relative_to(root).as_posix()
