"""A picture of training examples as a model meets them: the original, then what each epoch makes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from dlhpc.data.augment import augment
from dlhpc.data.dataset import Dataset
from dlhpc.errors import DataError
from dlhpc.files import atomic_path
from dlhpc.spec.data import AugmentSpec

TILE = 64
"""Least side of one picture; smaller images are enlarged by a whole factor."""
GAP = 4


def contact_sheet(
    dataset: Dataset, spec: AugmentSpec, seed: int, *, examples: int = 10, epochs: int = 7
) -> npt.NDArray[np.uint8]:
    """Pixels (H, W, C) of a grid: one row per example, its original first, then epochs 0, 1, ...

    The examples are spread evenly over the training part. Raises DataError for images of other than 1 or 3 channels.
    """
    height, width, channels = dataset.info.input_shape
    if channels not in {1, 3}:
        raise DataError(f"images of {channels} channels cannot be drawn, only 1 (grey) and 3 (colour)")
    size = dataset.info.sizes["train"]
    positions = np.unique(np.linspace(0, size - 1, min(examples, size)).astype(np.int64))
    originals, _ = dataset.read("train", positions)
    ids = dataset.ids("train")[positions]
    columns = [originals]
    columns += [augment(originals, ids, np.full(len(ids), epoch), spec, seed) for epoch in range(epochs)]
    factor = -(-TILE // max(height, width))
    tiles = np.stack(columns, axis=1).repeat(factor, axis=2).repeat(factor, axis=3)
    framed = np.pad(tiles, ((0, 0), (0, 0), (0, GAP), (0, GAP), (0, 0)), constant_values=255)
    grid = framed.swapaxes(1, 2).reshape(len(ids) * framed.shape[2], len(columns) * framed.shape[3], channels)
    return np.pad(grid, ((GAP, 0), (GAP, 0), (0, 0)), constant_values=255)


def write_png(pixels: npt.NDArray[np.uint8], path: Path) -> None:
    """Write pixels (H, W, 1 or 3) as a PNG file."""
    with atomic_path(path) as aside:
        Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(aside, format="PNG")
