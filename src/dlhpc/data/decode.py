"""An image file's bytes to pixels: one way for training, evaluation and serving, so that they cannot differ."""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from dlhpc.data.vetting import Metered, vet
from dlhpc.errors import DataError, UsageError

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP")
"""The only parsers that bytes from outside are given to."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp")
MAX_PIXELS = 1 << 26
"""67 megapixels: above any usual camera, and at most 0.3 GB while it is decoded."""
MODES = {1: "L", 3: "RGB"}
EXIF_ORIENTATION = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what turns the stored pixels upright (EXIF 2.32, tag 0x0112)."""


class ImageTooLargeError(DataError):
    """An image has more pixels than allowed, according to its header; nothing was decoded."""


def decode_image(content: bytes, shape: tuple[int, int, int], *, max_pixels: int = MAX_PIXELS) -> npt.NDArray[np.uint8]:
    """Pixels (H, W, C) uint8 of a PNG, JPEG, GIF, BMP or WebP file's bytes, for shape = (H, W, C) with C 1 or 3.

    The first frame counts; EXIF orientation is applied; transparency is laid over white; 16-bit grey is scaled, not
    cut; grey is ITU-R 601 luma. Another size is resized bilinearly over the area that each pixel covers, without
    keeping proportions; a JPEG much larger than needed is decoded at 1/2, 1/4 or 1/8.

    Raises ImageTooLargeError from the header alone, DataError for bytes that are no whole image, or one that would take
    its parser long for what it is; MemoryError when there is no room to decode it.
    """
    height, width, channels = shape
    if channels not in MODES:
        raise UsageError(f"images decode to 1 or 3 channels; the model wants {channels}")
    if not content:
        raise DataError("the image is empty (0 bytes)")
    vet(content)
    try:
        with Image.open(Metered(content), formats=FORMATS) as image:
            if image.width * image.height > max_pixels:
                raise _too_large(f"{image.width} x {image.height} pixels", max_pixels)
            if image.format == "PNG":
                _check_png(content)
            return _pixels(image, (height, width), MODES[channels])
    except (DataError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(str(error), max_pixels) from error
    except UnidentifiedImageError as error:
        raise DataError(f"not a PNG, JPEG, GIF, BMP or WebP image (starts with {content[:8]!r})") from error
    except Exception as error:  # a decoder given hostile bytes may raise anything
        raise DataError(f"the image is damaged: {error or type(error).__name__}") from error


def _too_large(what: str, max_pixels: int) -> ImageTooLargeError:
    return ImageTooLargeError(f"the image is too large: {what}; at most {max_pixels} pixels are decoded")


def _check_png(content: bytes) -> None:
    """Refuse a PNG with a wrong checksum in a chunk that makes pixels, or without its end: Pillow would show noise."""
    place = 8
    while place + 12 <= len(content):
        length = int.from_bytes(content[place : place + 4], "big")
        kind = content[place + 4 : place + 8]
        end = place + 8 + length
        critical = kind[:1].isupper()
        if critical and zlib.crc32(content[place + 4 : end]) != int.from_bytes(content[end : end + 4], "big"):
            raise DataError(f"the image is damaged: the checksum of its {kind.decode('latin-1')} chunk is wrong")
        if kind == b"IEND":
            return
        place = end + 4
    raise DataError("the image is damaged: it ends before its last chunk (IEND)")


def _pixels(image: Image.Image, size: tuple[int, int], mode: str) -> npt.NDArray[np.uint8]:
    height, width = size
    orientation = _orientation(image)
    longest = 2 * max(size)  # twice the target, so that the resize still averages; square, since it may be turned yet
    image.draft("L" if image.mode == "L" else "RGB", (longest, longest))
    upright = image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image
    plain = _plain(upright)
    if plain.size != (width, height):
        plain = plain.resize((width, height), Image.Resampling.BILINEAR)
    if plain.mode == "RGBA":
        plain = Image.alpha_composite(Image.new("RGBA", plain.size, "white"), plain)
    pixels = np.array(plain.convert(mode), np.uint8)
    return pixels.reshape(height, width, -1)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation; 1, upright, when there is none or the block is broken (the pixels may be fine)."""
    try:
        return int(image.getexif().get(EXIF_ORIENTATION, 1))
    except Exception:  # as above: any error of a parser of hostile bytes
        return 1


def _plain(image: Image.Image) -> Image.Image:
    """The image in L, RGB or, where it has transparency, RGBA."""
    if image.mode.startswith("I"):
        wide = np.asarray(image).astype(np.int64).clip(0, 65535)
        return Image.fromarray(((wide + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        return image.convert("RGBA")
    if image.mode in {"1", "L"}:
        return image.convert("L")
    return image.convert("RGB")
