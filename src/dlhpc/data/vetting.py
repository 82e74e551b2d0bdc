"""What an image's header does not tell: files that cost their parser far more than their bytes.

Pillow walks some parts of a file in Python, a step for every few bytes, and libjpeg goes over all of a progressive
image for each of its scans: a kilobyte can take a minute. Such files are refused when a limit is passed.
"""

from __future__ import annotations

import io
import re
from typing import Final

from dlhpc.errors import DataError

MOST_READS: Final = 50_000
"""Times that a parser may ask for bytes. An image of 16 MB in chunks of 8 kB takes a tenth of that."""
MOST_SCANS: Final = 64
"""Scans of a JPEG. Encoders of progressive ones make about ten."""
MOST_SEGMENTS: Final = 2_000
"""Segments of a JPEG. The largest metadata in use are split into a few hundred."""

_MARKER: Final = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""What begins a segment of a JPEG; other bytes after 0xff belong to its pixels, or are filling."""
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_WITHOUT_LENGTH: Final = frozenset({0x01, 0xD8})
_RUN_LENGTHS: Final = {1: "RLE8", 2: "RLE4"}


class Metered(io.BytesIO):
    """An image file's bytes for a parser; DataError when it asks for them too often."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """See io.BytesIO."""
        self.reads += 1
        if self.reads > MOST_READS:
            raise DataError("the image is made of too many small parts: save it anew")
        return super().read(size)


def vet(content: bytes) -> None:
    """Raise DataError for a JPEG of many scans and for a BMP of run lengths, which Pillow decodes in Python.

    What is damaged, or no image, is left to its parser.
    """
    if content[:2] == b"\xff\xd8":
        _vet_jpeg(content)
    elif content[:2] == b"BM":
        _vet_bmp(content)


def _vet_jpeg(content: bytes) -> None:
    place, segments, scans = 2, 0, 0
    while found := _MARKER.search(content, place):
        kind, place = content[found.start() + 1], found.end()
        segments += 1
        scans += kind == _START_OF_SCAN
        if scans > MOST_SCANS or segments > MOST_SEGMENTS:
            raise DataError(
                f"the image is a JPEG with more than {MOST_SCANS} scans or {MOST_SEGMENTS} segments: save it anew"
            )
        if kind == _END_OF_IMAGE:
            return
        if kind not in _WITHOUT_LENGTH:
            place += int.from_bytes(content[place : place + 2], "big")


def _vet_bmp(content: bytes) -> None:
    has_compression = int.from_bytes(content[14:18], "little") >= 40
    compression = int.from_bytes(content[30:34], "little")
    if has_compression and compression in _RUN_LENGTHS:
        raise DataError(
            f"the image is a BMP compressed by {_RUN_LENGTHS[compression]}, which is not read: "
            "save it uncompressed, or as PNG"
        )
