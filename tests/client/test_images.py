"""Images of every form that a client takes."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dlhpc.client import RequestError
from dlhpc.client.images import image_bytes, predict_body
from dlhpc.errors import NotFoundError


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 3)])
def test_pixels_become_a_png_without_loss(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    back = np.asarray(Image.open(io.BytesIO(image_bytes(pixels))))
    assert np.array_equal(back.reshape(shape), pixels)


def test_a_pillow_image_and_a_file_are_images_too(tmp_path: Path) -> None:
    picture = Image.new("L", (3, 2), 7)
    picture.save(tmp_path / "a.png")
    assert np.asarray(Image.open(io.BytesIO(image_bytes(picture)))).tolist() == [[7] * 3] * 2
    assert image_bytes(str(tmp_path / "a.png")) == (tmp_path / "a.png").read_bytes()


def test_what_is_no_image_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="float64 came"):
        image_bytes(np.zeros((2, 2)))
    with pytest.raises(RequestError, match=r"\(2, 2, 7\) came"):
        image_bytes(np.zeros((2, 2, 7), np.uint8))
    with pytest.raises(NotFoundError, match=r"missing\.png"):
        image_bytes(tmp_path / "missing.png")


def test_a_body_carries_the_bytes_as_base64() -> None:
    assert base64.b64decode(json.loads(predict_body(b"\x89PNG"))["image"]) == b"\x89PNG"
