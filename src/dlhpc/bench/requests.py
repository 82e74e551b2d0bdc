"""Requests to be sent: digits as PNG in base64, no two of them alike unless asked for."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image

LAG = 512
"""A repeated request is the one that was sent so many before it (at first half as many): it was answered long ago, and
lately enough to be remembered."""


def bodies(first: int, count: int, size: tuple[int, int], *, repeated: bool) -> list[bytes]:
    """JSON bodies number `first` and on, of images of this (height, width).

    With `repeated` every second body is one that was there before.
    """
    if not repeated:
        return [body(number, size) for number in range(first, first + count)]
    fresh: list[bytes] = []
    made: list[bytes] = []
    for place in range(count):
        if place % 2 and len(fresh) > LAG // 2:
            made.append(fresh[len(fresh) - LAG // 2])
        else:
            fresh.append(body(first + len(fresh), size))
            made.append(fresh[-1])
    return made


def body(number: int, size: tuple[int, int]) -> bytes:
    """The JSON body of one image; another number is another image."""
    return json.dumps({"image": base64.b64encode(png(image(number, size))).decode("ascii")}).encode()


def image(number: int, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Grey pixels of this (height, width): a digit, with the number in faint pixels."""
    images = _digits(size)
    made: npt.NDArray[np.uint8] = images[number % len(images)].copy()
    for place in range(min(size[1], 8)):
        made[0, place] = number >> 4 * place & 15
    return made


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Grey (height, width) pixels as a PNG file. Ten times as fast as Pillow, which matters for ten thousands."""
    height, width = pixels.shape
    rows = np.zeros((height, width + 1), np.uint8)  # each row begins with the number of its filter: none
    rows[:, 1:] = pixels
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


def http(body: bytes, port: int, headers: Mapping[str, str]) -> bytes:
    """`POST /predict` with a body, as it goes over the wire."""
    lines = [
        "POST /predict HTTP/1.1",
        f"host: 127.0.0.1:{port}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


@lru_cache(4)
def _digits(size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Scikit-learn's handwritten digits in this (height, width)."""
    from sklearn.datasets import load_digits

    small = np.round(load_digits().images * 255 / 16).astype(np.uint8)
    scaled = (Image.fromarray(each).resize((size[1], size[0]), Image.Resampling.BILINEAR) for each in small)
    made: npt.NDArray[np.uint8] = np.stack([np.asarray(each) for each in scaled])
    return made
