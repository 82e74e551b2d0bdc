"""Folders of the registry: listed strictly."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from dlhpc.errors import DlhpcError, IntegrityError
from dlhpc.registry.places import Place, names


def entries(folder: Place, pattern: str) -> list[str]:
    """Sorted names in a folder; none when there is no folder.

    Hidden files are passed over: an interrupted writer leaves them. Any other name that does not match `pattern` raises
    IntegrityError: nothing but the registry writes here.
    """
    try:
        found = sorted(name for name in names(folder) if not name.startswith("."))
    except FileNotFoundError:
        return []
    except NotADirectoryError as error:
        raise unexpected(folder) from error
    for name in found:
        if not re.fullmatch(pattern, name):
            raise unexpected(folder / name)
    return found


def unexpected(path: Place) -> IntegrityError:
    """The error for a file that has no business in the registry."""
    return IntegrityError(f"{path}: unexpected file in the registry; remove it")


@contextmanager
def cannot_write(root: Place) -> Iterator[None]:
    """Say what a disk that is full or read-only means for the registry in `root`."""
    try:
        yield
    except OSError as error:
        raise DlhpcError(f"{root}: cannot write to the registry: {error.strerror} ({error.filename})") from error
