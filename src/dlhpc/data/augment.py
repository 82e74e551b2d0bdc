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
PIXELS_AT_ONCE = 1 << 14
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
    room = None
    for start in range(0, len(images), at_once):
        part = slice(start, start + at_once)
        shape = images[part].shape[:3]
        if room is None or room.x.shape != shape:
            room = _Room(shape)
        _warp(images[part], matrix[part], shift[part], result[part], room)
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


class _Room:
    """Arrays that _warp works in, shared by a call's chunks: fresh ones each time would double the cost."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        """Room for chunks of (n, H, W) pixels."""
        self.x, self.y = np.empty(shape, np.int32), np.empty(shape, np.int32)
        self.x_weight, self.x_rest = np.empty(shape, np.uint16), np.empty(shape, np.uint16)
        self.y_weight, self.y_rest = np.empty(shape, np.uint32), np.empty(shape, np.uint32)
        self.index = np.empty(shape, np.intp)
        self.base = np.arange(shape[0])[:, None, None] * (shape[1] * shape[2])
        # The pixel below and to the right of the last one is read too, with weight 0.
        self.plane = np.zeros(int(np.prod(shape)) + shape[2] + 1, np.uint8)
        self.taken = np.empty(shape, np.uint8)
        self.near = np.empty((4, *shape), np.uint16)
        self.upper, self.lower = np.empty(shape, np.uint32), np.empty(shape, np.uint32)


def _warp(images: Images, matrix: npt.NDArray[Any], shift: npt.NDArray[Any], out: Images, room: _Room) -> None:
    """Bilinear samples of each image at its map, written to `out`."""
    _, height, width, channels = images.shape
    _coordinates(matrix[:, 0], shift[:, 0], width, room.x)
    _coordinates(matrix[:, 1], shift[:, 1], height, room.y)
    _weights(room.x, room.x_weight, room.x_rest)
    _weights(room.y, room.y_weight, room.y_rest)
    np.multiply(room.y, width, out=room.index)
    np.add(room.index, room.x, out=room.index)
    np.add(room.index, room.base, out=room.index)
    here, right, below, across = room.near
    for channel in range(channels):
        room.plane[: room.x.size].reshape(room.x.shape)[...] = images[..., channel]
        for near, step in zip(room.near, (0, 1, width, width + 1), strict=True):
            np.take(room.plane[step:], room.index, out=room.taken, mode="clip")
            near[...] = room.taken
        here *= room.x_rest
        here += np.multiply(right, room.x_weight, out=right)
        below *= room.x_rest
        below += np.multiply(across, room.x_weight, out=across)
        np.multiply(here, room.y_rest, out=room.upper)
        room.upper += np.multiply(below, room.y_weight, out=room.lower)
        room.upper += np.uint32(1 << (2 * WEIGHT_BITS - 1))
        np.right_shift(room.upper, np.uint32(2 * WEIGHT_BITS), out=out[..., channel], casting="unsafe")


def _coordinates(row: npt.NDArray[Any], shift: npt.NDArray[Any], limit: int, out: npt.NDArray[np.int32]) -> None:
    """One coordinate of every sample (n, H, W), kept inside the image, with WEIGHT_BITS fraction bits."""
    _, height, width = out.shape
    one = 1 << MAP_BITS
    across = np.rint(row[:, 0] * one).astype(np.int32)
    down = np.rint(row[:, 1] * one).astype(np.int32)
    middle = np.rint((shift + (limit - 1) / 2) * one).astype(np.int32)
    middle += 1 << (MAP_BITS - WEIGHT_BITS - 1)  # so that the shift below rounds
    # Twice the distance from the middle is a whole number, also for even sides.
    along_x = across[:, None] * np.arange(1 - width, width, 2, dtype=np.int32) >> 1
    along_y = (down[:, None] * np.arange(1 - height, height, 2, dtype=np.int32) >> 1) + middle[:, None]
    np.add(along_x[:, None, :], along_y[:, :, None], out=out)
    np.right_shift(out, MAP_BITS - WEIGHT_BITS, out=out)
    np.maximum(out, 0, out=out)
    np.minimum(out, (limit - 1) << WEIGHT_BITS, out=out)


def _weights(position: npt.NDArray[np.int32], weight: npt.NDArray[Any], rest: npt.NDArray[Any]) -> None:
    """Reduce positions to whole pixels; `weight` is that of the pixel after, `rest` that of the pixel itself."""
    np.bitwise_and(position, (1 << WEIGHT_BITS) - 1, out=weight, casting="unsafe")
    np.subtract(1 << WEIGHT_BITS, weight, out=rest)
    np.right_shift(position, WEIGHT_BITS, out=position)
