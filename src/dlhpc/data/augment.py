"""Random affine jitter of whole batches: uint8 in, uint8 out, drawn per example from (seed, epoch, id).

All arithmetic after the six numbers of each example's map is in integers, so the pixels are the same bits however
examples are grouped, and on every machine on which those numbers round alike. Pixels beyond the border repeat the
border: the middle way between black wedges, which mean something in a photograph, and mirrored strokes, which mean
something in a digit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dlhpc.draws import NUMPY, uniform
from dlhpc.spec.data import AugmentSpec

AUGMENT_DOMAIN = 0x5B11_7010
"""First stream of the draws; rotation, shift x, shift y, scale, shear and flip follow."""
STREAMS = AUGMENT_DOMAIN + np.arange(6)
MAP_BITS = 14
"""Fraction bits of the map's numbers: 1/16384, below a hundredth of a pixel at the border of a 224 x 224 image."""
WEIGHT_BITS = 8
"""Fraction bits of a coordinate when it weighs its neighbours: an error of half a grey level at most per axis."""
PIXELS_AT_ONCE = 1 << 16
"""Worked on at a time, so that the intermediate arrays stay in the processor's cache."""

Images = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]


def augment(images: Images, ids: Integers, epochs: Integers, spec: AugmentSpec, seed: int) -> Images:
    """Jittered copies of images (n, H, W, C); `images` itself when every setting is zero.

    `ids` and `epochs` (n,) and the seed determine each example's map.
    """
    if not images.size or not any(spec.model_dump().values()):
        return images
    matrix, shift = maps(ids, epochs, spec, seed, images.shape[1:3])
    result = np.empty_like(images)
    at_once = max(1, PIXELS_AT_ONCE // (images.shape[1] * images.shape[2]))
    for start in range(0, len(images), at_once):
        part = slice(start, start + at_once)
        _warp(images[part], matrix[part], shift[part], result[part])
    return result


def maps(
    ids: Integers, epochs: Integers, spec: AugmentSpec, seed: int, size: tuple[int, ...]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Per example, matrix A (n, 2, 2) and shift b (n, 2): output pixel p shows the input at A (p - m) + m + b.

    p = (x, y) and m, the image's middle, are in pixels. A is the inverse of rotation x shear x scale x flip.
    """
    low, high = ids[:, None], ids[:, None] >> 32
    draws = uniform(NUMPY, seed, epochs[:, None], low, high, STREAMS).astype(np.float64)
    turn, right, down, grow, slant, flip = np.ascontiguousarray(draws.T) * 2.0 - 1.0
    angle = turn * np.radians(spec.rotation)
    tangent = np.tan(slant * np.radians(spec.shear))
    factor = 1.0 / (1.0 + grow * spec.scale)
    cosine, sine = np.cos(angle) * factor, np.sin(angle) * factor
    mirror = np.where(flip < 0.0, -1.0, 1.0) if spec.horizontal_flip else 1.0
    matrix = np.empty((len(ids), 2, 2))
    matrix[:, 0, 0] = (cosine + tangent * sine) * mirror
    matrix[:, 0, 1] = (sine - tangent * cosine) * mirror
    matrix[:, 1, 0] = -sine
    matrix[:, 1, 1] = cosine
    shift = np.stack([right * spec.translation * size[1], down * spec.translation * size[0]], axis=1)
    return matrix, shift


def _warp(images: Images, matrix: npt.NDArray[Any], shift: npt.NDArray[Any], out: Images) -> None:
    """Bilinear samples of each image at its map, written to `out`."""
    count, height, width, channels = images.shape
    x, x_weight = _coordinates(matrix[:, 0], shift[:, 0], (height, width), width)
    y, y_weight = _coordinates(matrix[:, 1], shift[:, 1], (height, width), height)
    corner = y.astype(np.intp)
    corner *= width
    corner += x
    corner += np.arange(0, count * height * width, height * width)[:, None, None]
    # Beyond the last row or column a neighbour's weight is 0: any pixel that exists will do.
    last = count * height * width - 1
    corners = (
        corner,
        np.minimum(corner + 1, last),
        np.minimum(corner + width, last),
        np.minimum(corner + (width + 1), last),
    )
    x_rest, y_rest = np.uint16(1 << WEIGHT_BITS) - x_weight, np.uint32(1 << WEIGHT_BITS) - y_weight
    for channel in range(channels):
        plane = np.ascontiguousarray(images[..., channel]).reshape(-1)
        here, right, below, across = (plane.take(index).astype(np.uint16) for index in corners)
        upper = (here * x_rest + right * x_weight) * y_rest
        lower = (below * x_rest + across * x_weight) * y_weight
        out[..., channel] = (upper + lower + np.uint32(1 << 15)) >> np.uint32(16)


def _coordinates(
    row: npt.NDArray[Any], shift: npt.NDArray[Any], size: tuple[int, int], limit: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint16]]:
    """One coordinate of every sample (n, H, W), kept inside the image: whole pixels, and the next pixel's weight."""
    height, width = size
    one = 1 << MAP_BITS
    across = np.rint(row[:, 0] * one).astype(np.int32)
    down = np.rint(row[:, 1] * one).astype(np.int32)
    middle = np.rint((shift + (limit - 1) / 2) * one).astype(np.int32)
    half = 1 << (MAP_BITS - WEIGHT_BITS - 1)
    # Twice the distance from the middle is a whole number, also for even sides.
    along_x = across[:, None] * np.arange(1 - width, width, 2, dtype=np.int32) >> 1
    along_y = (down[:, None] * np.arange(1 - height, height, 2, dtype=np.int32) >> 1) + (middle[:, None] + half)
    position = along_x[:, None, :] + along_y[:, :, None]
    position >>= MAP_BITS - WEIGHT_BITS
    np.maximum(position, 0, out=position)
    np.minimum(position, (limit - 1) << WEIGHT_BITS, out=position)
    weight = (position & ((1 << WEIGHT_BITS) - 1)).astype(np.uint16)
    position >>= WEIGHT_BITS
    return position, weight
