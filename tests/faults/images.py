"""Image files that ask for more than they are, and rare ones that are in order."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

from dlhpc.data.decode import EXIF_ORIENTATION

HUGE = 40_000
"""Width and height of images that are huge by their headers: 1.6 gigapixels."""


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    """An image as a file's bytes."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def grey(size: tuple[int, int] = (8, 8)) -> Image.Image:
    """An image of one grey."""
    return Image.new("L", size, 128)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_with(chunks: bytes) -> bytes:
    """A PNG with these chunks after its header."""
    content = saved(grey(), "PNG")
    return content[:33] + chunks + content[33:]


def huge_png() -> bytes:
    """A PNG of all the pixels that its header tells: they are zeros, and deflate to a thousandth."""
    header = struct.pack(">IIBBBBB", HUGE, HUGE, 8, 0, 0, 0, 0)
    start = zlib.compress(b"\0" * 10_000_000, 9)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", start) + png_chunk(b"IEND", b"")


def huge_jpeg() -> bytes:
    """A JPEG whose frame header tells huge dimensions."""
    content = bytearray(saved(grey(), "JPEG"))
    place = content.index(b"\xff\xc0")
    content[place + 5 : place + 9] = struct.pack(">HH", HUGE, HUGE)
    return bytes(content)


def huge_gif(*, in_frame: bool) -> bytes:
    """A GIF that is huge by its screen, or only by its first frame."""
    content = bytearray(saved(grey(), "GIF"))
    if in_frame:
        place = content.index(b",", 13 + (3 << (content[10] & 7) + 1))
        content[place + 5 : place + 9] = struct.pack("<HH", HUGE, HUGE)
    else:
        content[6:10] = struct.pack("<HH", HUGE, HUGE)
    return bytes(content)


def huge_webp() -> bytes:
    """A lossless WebP of 16383 x 16383 pixels, the most that there is."""
    content = bytearray(saved(Image.new("RGB", (8, 8)), "WEBP", lossless=True))
    place = content.index(b"VP8L") + 9
    rest = int.from_bytes(content[place : place + 4], "little") & ~0xFFFFFFF
    content[place : place + 4] = (rest | 16382 | 16382 << 14).to_bytes(4, "little")
    return bytes(content)


def huge_bmp() -> bytes:
    """A BMP whose header tells huge dimensions."""
    content = bytearray(saved(grey(), "BMP"))
    content[18:26] = struct.pack("<ii", HUGE, HUGE)
    return bytes(content)


def run_length_bmp() -> bytes:
    """A BMP of a kilobyte: one row of a million pixels, which one code fills, in Python."""
    runs = b"\x01\x01\x00\x00"
    offset = 54 + 4 * 256
    head = b"BM" + struct.pack("<IHHI", offset + len(runs), 0, 0, offset)
    head += struct.pack("<IiiHHIIiiII", 40, 1_000_000, 1, 1, 8, 1, len(runs), 0, 0, 256, 256)
    return head + bytes(1024) + runs


def many_scans(count: int = 1_000) -> bytes:
    """A progressive JPEG of 5000 x 5000 pixels that is gone over again and again."""
    content = saved(grey((5_000, 5_000)), "JPEG", progressive=True)
    head, first, again, *_ = content.split(b"\xff\xda")
    return b"\xff\xda".join([head, first, *[again] * count]) + b"\xff\xd9"


def many_segments(count: int = 50_000) -> bytes:
    """A JPEG with empty segments of metadata."""
    content = saved(grey(), "JPEG")
    return content[:2] + b"\xff\xe1\x00\x02" * count + content[2:]


def many_chunks(count: int = 25_000) -> bytes:
    """A PNG whose pixels are in that many pieces, nearly all of them empty."""
    return png_with(png_chunk(b"tEXt", b"a\0") * count)


def many_comments(count: int = 60_000) -> bytes:
    """A GIF with a comment of single bytes."""
    content = saved(grey(), "GIF")
    place = 13 + (3 << (content[10] & 7) + 1)
    return content[:place] + b"!\xfe" + b"\x01a" * count + b"\0" + content[place:]


def animation(kind: str, count: int = 300) -> bytes:
    """Frames of changing grey; the first is that of `grey()`."""
    frames = [Image.new("RGB", (8, 8), (value, value, value)) for value in (128, *(n % 200 for n in range(count)))]
    return saved(frames[0], kind, save_all=True, append_images=frames[1:])


def turned() -> bytes:
    """A JPEG that is to be turned by its EXIF orientation."""
    image = grey()
    exif = image.getexif()
    exif[EXIF_ORIENTATION] = 6
    return saved(image, "JPEG", exif=exif)


def sixteen_bit() -> bytes:
    """A PNG of 16 bits a pixel."""
    return saved(Image.fromarray(np.full((8, 8), 128 * 257, np.uint16)), "PNG")


def see_through() -> bytes:
    """A PNG with a palette of which one colour is transparent."""
    return saved(grey().convert("P"), "PNG", transparency=0)


def truncated(kind: str) -> bytes:
    """The first half of a file."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    content = saved(Image.fromarray(noise), kind)
    return content[: len(content) // 2]


def bomb_of(kind: bytes) -> bytes:
    """A PNG with a compressed chunk of metadata that inflates to 100 MB."""
    middle: Sequence[bytes] = {b"zTXt": (b"a\0", b"\0"), b"iCCP": (b"a\0", b"\0"), b"iTXt": (b"a\0\1\0\0\0",)}[kind]
    return png_with(png_chunk(kind, b"".join(middle) + zlib.compress(b"\0" * 100_000_000, 9)))
