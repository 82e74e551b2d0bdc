"""Image files made on the spot."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


def encode(pixels: np.ndarray | Image.Image, suffix: str, **options: object) -> bytes:
    """The bytes of an image file."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    stream = io.BytesIO()
    image.save(stream, {"jpg": "JPEG"}.get(suffix, suffix.upper()), **options)
    return stream.getvalue()
