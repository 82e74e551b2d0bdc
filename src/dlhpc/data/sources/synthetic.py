"""Made-up images that can be learnt: one pattern per class, seen through noise. Made when read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dlhpc.data.source import MemorySource, Rows, Source
from dlhpc.draws import NUMPY, bits, uniform
from dlhpc.errors import ConfigError
from dlhpc.spec.data import SyntheticSpec
from dlhpc.spec.model import ModelSpec

DEFAULT_SHAPE = (28, 28, 1)
"""Shape of the images when neither data.image_shape nor model.input_shape says one."""
DEFAULT_CLASSES = 10
"""Number of classes when neither data.num_classes nor model.num_classes says one."""
CELL = 4
"""Side, in pixels, of the squares that a class's pattern is made of: coarse enough for strided convolutions."""
KEPT_BYTES = 64 * 2**20
"""Data sets up to this size are made once and kept; larger ones are made again whenever they are read."""
PATTERN_DOMAIN, NOISE_DOMAIN = 0x5B11_7001, 0x5B11_7002
BYTE_SUM_MEAN, BYTE_SUM_DEVIATION = 510.0, 147.8
"""Of the sum of four independent uniform bytes, which is close to a normal variable and exact on every machine."""


@dataclass(frozen=True)
class SyntheticSource:
    """Example i has label i mod classes; its pixels are a function of i, the shape and the noise alone."""

    input_shape: tuple[int, int, int]
    num_examples: int
    num_classes: int
    noise: float
    skipped: tuple[str, ...] = ()

    @property
    def ids(self) -> npt.NDArray[np.int64]:
        return np.arange(self.num_examples, dtype=np.int64)

    def classes(self, visible: Rows) -> tuple[str, ...]:
        return tuple(str(label) for label in range(self.num_classes))

    def labels(self, rows: Rows) -> npt.NDArray[np.int64]:
        return rows % self.num_classes

    def inputs(self, rows: Rows) -> npt.NDArray[np.uint8]:
        height, width, channels = self.input_shape
        high, wide = -(-height // CELL), -(-width // CELL)
        cells = np.arange(high * wide * channels)
        pattern = uniform(NUMPY, PATTERN_DOMAIN, self.labels(rows)[:, None], cells).reshape(-1, high, wide, channels)
        pixels = pattern.repeat(CELL, axis=1)[:, :height].repeat(CELL, axis=2)[:, :, :width] * np.float32(255.0)
        words = bits(NUMPY, NOISE_DOMAIN, rows[:, None], np.arange(height * width * channels))
        total = (words & 255) + (words >> 8 & 255) + (words >> 16 & 255) + (words >> 24)
        normal = (total.astype(np.float32) - np.float32(BYTE_SUM_MEAN)) * np.float32(1.0 / BYTE_SUM_DEVIATION)
        pixels += normal.reshape(pixels.shape) * np.float32(255.0 * self.noise)
        finished: npt.NDArray[np.uint8] = np.rint(pixels).clip(0, 255).astype(np.uint8)
        return finished

    def content(self, rows: Rows) -> bytes:
        return repr((len(rows), self.input_shape, self.num_classes, self.noise)).encode()


def open_synthetic(spec: SyntheticSpec, model: ModelSpec) -> Source:
    """Synthetic data of the spec's (or the model's) shape and number of classes; ConfigError when the two differ."""
    for what, ours, models in (
        ("image_shape", spec.image_shape, ("input_shape", model.input_shape)),
        ("num_classes", spec.num_classes, ("num_classes", model.num_classes)),
    ):
        name, given = models
        if ours is not None and given is not None and ours != given:
            raise ConfigError(
                f"data.{what}: {_words(ours)} contradicts model.{name}: {_words(given)}; leave one of them out"
            )
    source = SyntheticSource(
        input_shape=spec.image_shape or model.input_shape or DEFAULT_SHAPE,
        num_examples=spec.num_examples,
        num_classes=spec.num_classes or model.num_classes or DEFAULT_CLASSES,
        noise=spec.noise,
    )
    if source.num_examples * int(np.prod(source.input_shape)) > KEPT_BYTES:
        return source
    rows = source.ids
    return MemorySource(source.inputs(rows), source.labels(rows), rows, source.classes(rows))


def _words(value: int | tuple[int, ...]) -> str:
    return str(value) if isinstance(value, int) else str(list(value))
