"""A clock that never goes back: the numbers 1, 2, 3, ..., each given to one writer, over all ledgers of a registry.

Clocks of machines jump; who counts what happened after what needs something better. The folder holds empty files named
by the numbers that were given last. Taking one is the exclusive creation of the next file, so it needs no lock. Nobody
reads it: each record carries its number. When the folder is lost, `floor` says from the records where to go on.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from dlhpc.registry.places import Place, claim, make_folder, names, settle

_KEPT = 64
"""Numbers that stay, since a listing made while others write may lack the newest."""


def tick(folder: Place, after: int, floor: Callable[[], int]) -> int:
    """The next number, larger than `after` and every number given before."""
    make_folder(folder)
    while True:
        given = _given(folder)
        number = max(after, max(given) if given else floor()) + 1
        if not claim(folder / str(number)):
            continue
        if max(_given(folder), default=0) > number:
            continue  # this process slept since it listed the folder, while others went on
        settle(folder)
        for old in given:
            if old <= number - _KEPT:
                with suppress(FileNotFoundError):  # another writer was first
                    (folder / str(old)).unlink()
        return number


def _given(folder: Place) -> list[int]:
    return [int(name) for name in names(folder) if name.isdecimal() and name.isascii() and len(name) < 10]
