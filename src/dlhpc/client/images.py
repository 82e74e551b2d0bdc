"""Images as clients have them, and the bodies that they are sent in."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Protocol

from dlhpc.client.replies import RequestError
from dlhpc.errors import NotFoundError
from dlhpc.spec.wire import PredictRequest, encode_image


class ArrayLike(Protocol):
    """A numpy array, or what converts to one: pixels (H, W) or (H, W, C) uint8."""

    def __array__(self, *args: Any, **kwargs: Any) -> Any: ...


ImageLike = Path | str | bytes | ArrayLike
"""A file's path, a file's bytes, or pixels; a Pillow image counts as pixels."""


def image_bytes(image: ImageLike) -> bytes:
    """The bytes of an image file: as given, read from a path, or pixels as PNG.

    Raises NotFoundError for a file that cannot be read, RequestError for pixels that no PNG can hold.
    """
    if isinstance(image, bytes):
        return image
    if isinstance(image, (str, Path)):
        try:
            return Path(image).read_bytes()
        except OSError as error:
            raise NotFoundError(f"{image}: {error.strerror or error}") from error
    import numpy as np
    from PIL import Image

    pixels = np.asarray(image)
    if pixels.dtype != np.uint8:
        raise RequestError(f"pixels must be uint8 in 0..255, but {pixels.dtype} came: convert them first")
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    buffer = io.BytesIO()
    try:
        Image.fromarray(pixels).save(buffer, "PNG")
    except TypeError as error:
        raise RequestError(f"pixels must be (H, W), (H, W, 1) or (H, W, 3), but {pixels.shape} came") from error
    return buffer.getvalue()


def predict_body(image: ImageLike) -> bytes:
    """The body that asks for the class of an image. Reads the file and encodes: milliseconds for a large one."""
    return PredictRequest(image=encode_image(image_bytes(image))).model_dump_json().encode()
