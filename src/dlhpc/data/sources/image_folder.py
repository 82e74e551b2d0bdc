"""A folder of images, one sub-folder per class: decoded once, kept as uint8."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dlhpc.data.decode import decode_image
from dlhpc.data.source import MemorySource
from dlhpc.data.sources.listing import list_images
from dlhpc.errors import DataError
from dlhpc.spec.data import ImageFolderSpec

logger = logging.getLogger(__name__)

IN_MEMORY_BYTES = 1 << 30
"""Decoded images up to this size stay in memory; more lie in a temporary file, of which the system keeps what fits."""
NAMED = 20
"""Damaged files named in one message."""

Pixels = npt.NDArray[np.uint8]


def open_image_folder(spec: ImageFolderSpec) -> MemorySource:
    """Every readable image of the folder, decoded to `image_size` and `channels`.

    All are decoded here, on as many threads as there are processors: so a damaged file is known before the data is
    divided, and an epoch only copies. Ids are hashes of the relative paths, so an image keeps its id, and with it
    its part, when others come or go. Raises NotFoundError and DataError as list_images does; DataError when no file
    can be decoded, or, with on_corrupt "refuse", when one cannot. With "skip" such files are named in a warning.
    """
    listing = list_images(spec.path)
    images = _room(len(listing.paths), (*spec.image_size, spec.channels), spec)
    marks, damaged = _decode(listing.paths, images)
    reasons = [f"{listing.paths[row]}: {reason}" for row, reason in damaged.items()]
    if damaged:
        _report(spec, reasons, len(listing.paths))
    good = np.setdiff1d(np.arange(len(listing.paths)), list(damaged))
    for place, row in enumerate(good):  # in place: the array may be larger than the memory
        if place != row:
            images[place] = images[row]
    return MemorySource(
        images=images[: len(good)],
        targets=listing.labels[good],
        ids=np.array([stable_id(listing.paths[row].relative_to(spec.path)) for row in good], np.int64),
        names=listing.classes,
        marks=marks[good],
        skipped=tuple(reasons),
    )


def stable_id(path: Path) -> int:
    """63 bits of the sha256 of a relative path, the same on every system (forward slashes, composed accents)."""
    text = unicodedata.normalize("NFC", path.as_posix()).encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1


def _room(count: int, shape: tuple[int, int, int], spec: ImageFolderSpec) -> Pixels:
    """An array for all images: in memory, or, when it is large, in a file that is gone when the process ends."""
    size = count * int(np.prod(shape))
    if size <= IN_MEMORY_BYTES:
        return np.empty((count, *shape), np.uint8)
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if size > free:
        raise DataError(
            f"{spec.path}: {count} images of {list(shape)} take {size / 1e9:.1f} GB decoded, and {folder} has "
            f"{free / 1e9:.1f} GB free: lower data.image_size, or set TMPDIR to a larger disk"
        )
    with tempfile.TemporaryFile(dir=folder) as file:
        return np.asarray(np.memmap(file, np.uint8, "w+", shape=(count, *shape)))


def _decode(paths: tuple[Path, ...], images: Pixels) -> tuple[Pixels, dict[int, str]]:
    """Fill `images`; the sha256 of each file (N, 32), and why rows could not be filled."""
    marks = np.zeros((len(paths), hashlib.sha256().digest_size), np.uint8)
    height, width, channels = images.shape[1:]

    def decode(row: int) -> str | None:
        try:
            content = paths[row].read_bytes()
            images[row] = decode_image(content, (height, width, channels))
        except (DataError, OSError) as error:
            return str(error)
        marks[row] = np.frombuffer(hashlib.sha256(content).digest(), np.uint8)
        return None

    logger.info("decoding %d images", len(paths))
    pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="dlhpc-decode")
    try:
        reasons = list(pool.map(decode, range(len(paths))))
    finally:
        pool.shutdown(cancel_futures=True)
    return marks, {row: reason for row, reason in enumerate(reasons) if reason is not None}


def _report(spec: ImageFolderSpec, reasons: list[str], count: int) -> None:
    """Name the damaged files: as a warning, or as the error that ends it."""
    named = "\n  ".join(reasons[:NAMED] + (["..."] if len(reasons) > NAMED else []))
    text = f"{spec.path}: {len(reasons)} of {count} images cannot be decoded"
    if spec.on_corrupt == "refuse":
        raise DataError(f"{text}; mend or remove them, or set data.on_corrupt: skip:\n  {named}")
    if len(reasons) == count:
        raise DataError(f"{text}:\n  {named}")
    logger.warning("%s and are skipped:\n  %s", text, named)
