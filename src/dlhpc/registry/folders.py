"""Folders of the registry: made durably, listed strictly."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dlhpc.errors import DlhpcError, IntegrityError
from dlhpc.files import fsync_folder


def make_folder(folder: Path) -> None:
    """Create a folder and its parents so that they survive a power cut."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    fsync_folder(folder.parent)


def entries(folder: Path, pattern: str) -> list[str]:
    """Sorted names in a folder; none when there is no folder.

    Hidden files are passed over: an interrupted writer leaves them. Any other name that does not match `pattern` raises
    IntegrityError: nothing but the registry writes here.
    """
    try:
        names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except FileNotFoundError:
        return []
    except NotADirectoryError as error:
        raise unexpected(folder) from error
    for name in names:
        if not re.fullmatch(pattern, name):
            raise unexpected(folder / name)
    return names


def unexpected(path: Path) -> IntegrityError:
    """The error for a file that has no business in the registry."""
    return IntegrityError(f"{path}: unexpected file in the registry; remove it")


@contextmanager
def cannot_write(root: Path) -> Iterator[None]:
    """Say what a disk that is full or read-only means for the registry in `root`."""
    try:
        yield
    except OSError as error:
        raise DlhpcError(f"{root}: cannot write to the registry: {error.strerror} ({error.filename})") from error
