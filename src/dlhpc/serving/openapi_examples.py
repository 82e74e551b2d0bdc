"""Examples of requests for the OpenAPI document, of the size that a model computes on: each of them can be sent."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

Shape = tuple[int, int, int]


def predict_examples(shape: Shape) -> dict[str, Any]:
    """Bodies of `POST /predict`."""
    image = _file(shape)
    pixels = np.zeros(shape, np.uint8).tolist()
    return {
        "image": {"summary": "One image", "value": {"image": image}},
        "images": {"summary": "Several images", "value": {"images": [image, image]}},
        "pixels": {"summary": "An array of pixels", "value": {"pixels": pixels, "range": [0, 255]}},
    }


def infer_examples(shape: Shape) -> dict[str, Any]:
    """Bodies of the Open Inference Protocol's `infer`."""
    zeros = np.zeros(int(np.prod(shape)), np.uint8).tolist()
    file = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [_file(shape)]}
    numbers = {"name": "image", "datatype": "UINT8", "shape": [1, *shape], "data": zeros}
    best = [{"name": "probabilities", "parameters": {"classification": 1}}]
    return {
        "numbers": {"summary": "A tensor of pixels", "value": {"inputs": [numbers]}},
        "files": {"summary": "An image file; the best class alone", "value": {"inputs": [file], "outputs": best}},
    }


def _file(shape: Shape) -> str:
    """A grey PNG of this size as base64."""
    height, width, channels = shape
    stream = io.BytesIO()
    Image.new("L" if channels == 1 else "RGB", (width, height), 128 if channels == 1 else (128,) * 3).save(
        stream, "PNG"
    )
    return base64.b64encode(stream.getvalue()).decode("ascii")
