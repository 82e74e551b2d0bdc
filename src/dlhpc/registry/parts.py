"""Big files in an object store: as parts, so that an upload that is interrupted goes on where it stopped.

    <digest>.parts/<n>-<sha256 of the part>     n from 00000; all but the last of one size

A part says in its name what it holds, so one that is there with its length need not be sent again. Readers join them;
what was joined is hashed as any other file. A folder that such a registry was copied into is read likewise.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Final

from dlhpc.errors import IntegrityError
from dlhpc.registry.manifest import sha256
from dlhpc.registry.places import Place, sizes
from dlhpc.registry.stores.object_store import ObjectPath

PART_BYTES: Final = 16 * 2**20
"""Size of a part, and the size up to which a file is one object. It belongs to the format."""
SUFFIX: Final = ".parts"
_NAME = re.compile(r"(\d{5})-([0-9a-f]{64})")


def parts_of(path: Place) -> list[Place]:
    """The parts of a file that are there, in order."""
    folder = _folder(path)
    return [folder / name for name in sorted(sizes(folder)) if not name.startswith(".")]


def write_parts(path: ObjectPath, content: bytes, told: Callable[[int], None]) -> None:
    """Put what is not there yet. `told` gets the number of bytes that are there, as they grow."""
    folder = path.parent / f"{path.name}{SUFFIX}"
    there, view = folder.sizes(), memoryview(content)
    for number, start in enumerate(range(0, len(content), PART_BYTES)):
        told(start)
        part = view[start : start + PART_BYTES]
        name = f"{number:05d}-{sha256(part)}"
        if there.pop(name, None) != len(part):
            (folder / name).write_bytes(part)
    for stray in there:
        (folder / stray).unlink()
    told(len(content))


def read_parts(path: Place, size: int | None, what: str, told: Callable[[int], None]) -> bytes | None:
    """The bytes of the parts, joined; None where there are none. IntegrityError, naming it, for a part that is damaged.

    `size` is that of all, where it is known.
    """
    joined = io.BytesIO()
    for number, part in enumerate(parts_of(path)):
        told(joined.tell())
        name = _NAME.fullmatch(part.name)
        if name is None or int(name[1]) != number:
            raise IntegrityError(f"{_folder(path)}: part {number} is missing: it holds {what}; publish the model again")
        content = part.read_bytes()
        if sha256(content) != name[2]:
            raise IntegrityError(f"{part}: damaged: it holds a part of {what}; remove it and publish the model again")
        joined.write(content)
    if joined.tell() == 0:
        return None
    if size is not None and joined.tell() != size:
        raise IntegrityError(
            f"{_folder(path)}: {joined.tell()} bytes in its parts, expected {size}: {what} is damaged; publish it again"
        )
    told(joined.tell())
    return joined.getvalue()


def _folder(path: Place) -> Place:
    return path.parent / f"{path.name}{SUFFIX}"
