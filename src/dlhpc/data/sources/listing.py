"""Which image files a folder holds, and which class each belongs to, before any of them is opened."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dlhpc.data.decode import SUFFIXES
from dlhpc.errors import DataError, NotFoundError

logger = logging.getLogger(__name__)

LAYOUT = "expected one sub-folder per class with its images directly in it, such as {root}/cat/1.png, {root}/dog/2.jpg"


@dataclass(frozen=True)
class Listing:
    """The images of a folder, class by class, both in natural order (2 before 10)."""

    classes: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: npt.NDArray[np.int64]
    """(N,) index of each path's class."""


def list_images(root: Path) -> Listing:
    """The image files of a folder with one sub-folder per class. Hidden entries and other files are left alone.

    Raises NotFoundError without the folder, DataError when it is laid out otherwise, when a class has no image, or
    when a symbolic link leads out of it.
    """
    layout = LAYOUT.format(root=root)
    if not root.exists():
        raise NotFoundError(f"{root}: no such folder (data.path); {layout}")
    if not root.is_dir():
        raise DataError(f"{root}: this is a file; {layout}")
    entries = _entries(root, root)
    folders = [entry for entry in entries if entry.is_dir()]
    loose = [entry for entry in entries if _is_image(entry)]
    if not folders:
        found = f"{len(loose)} image(s) lie directly in it" if loose else "it has no sub-folder"
        raise DataError(f"{root}: {found}; {layout}")
    if loose:
        logger.warning(
            "%s: %d image(s) beside the class folders belong to no class: %s", root, len(loose), _some(loose)
        )
    files = [_class_files(folder, root, layout) for folder in folders]
    empty = [folder for folder, inside in zip(folders, files, strict=True) if not inside]
    if empty:
        raise DataError(
            f"{root}: no image ({', '.join(SUFFIXES)}) in {_some(empty)}; add some, or take the folder away; {layout}"
        )
    if len(folders) < 2:
        raise DataError(f"{root}: one class only ({folders[0].name}); a classifier needs two or more; {layout}")
    return Listing(
        classes=tuple(folder.name for folder in folders),
        paths=tuple(path for inside in files for path in inside),
        labels=np.repeat(np.arange(len(folders)), [len(inside) for inside in files]),
    )


def natural_key(name: str) -> tuple[list[tuple[int, str]], str]:
    """Sorts runs of digits by value: img2 before img10."""
    pieces = re.split(r"([0-9]+)", name)
    return [(int(piece), "") if index % 2 else (-1, piece) for index, piece in enumerate(pieces)], name


def _entries(folder: Path, root: Path) -> list[Path]:
    """What lies in a folder, hidden entries aside, in natural order."""
    with os.scandir(folder) as scan:
        found = sorted(
            (entry for entry in scan if not entry.name.startswith(".")), key=lambda entry: natural_key(entry.name)
        )
    for entry in found:
        if entry.is_symlink():
            target = Path(entry.path).resolve()
            if not target.is_relative_to(root.resolve()):
                raise DataError(
                    f"{entry.path}: a symbolic link out of the data folder (to {target}); "
                    "put the file itself there (cp -L), so that the folder is all of the data"
                )
    return [folder / entry.name for entry in found]


def _class_files(folder: Path, root: Path, layout: str) -> list[Path]:
    entries = _entries(folder, root)
    nested = [entry for entry in entries if entry.is_dir()]
    if nested:
        raise DataError(f"{folder}: a class folder with folders in it ({_some(nested)}); {layout}")
    images = [entry for entry in entries if _is_image(entry)]
    others = [entry for entry in entries if not _is_image(entry)]
    if others:
        logger.warning(
            "%s: %d file(s) are no images by their name and were left alone: %s", folder, len(others), _some(others)
        )
    return images


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.is_dir()


def _some(paths: Iterable[Path]) -> str:
    names = [path.name for path in paths]
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
