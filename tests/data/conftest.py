"""Small data sets in memory and on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dlhpc.data.parted import PartedDataset
from dlhpc.data.source import MemorySource
from dlhpc.spec.data import SplitSpec
from tests.data.images import encode


@pytest.fixture(scope="session")
def noise() -> Callable[..., np.ndarray]:
    """Random uint8 arrays, a function of the shape."""
    return lambda *shape: np.random.default_rng(list(shape)).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def small(noise: Callable[..., np.ndarray]) -> PartedDataset:
    """100 images of 6 x 5 x 3 in three classes, with ids of all magnitudes."""
    ids = np.random.default_rng(0).integers(0, 2**63, 100, dtype=np.int64)
    return PartedDataset(MemorySource(noise(100, 6, 5, 3), np.arange(100) % 3, ids), SplitSpec())


@pytest.fixture
def folder(tmp_path: Path, noise: Callable[..., np.ndarray]) -> Path:
    """Two classes of twelve images each: PNG and JPEG, grey and colour, of different sizes."""
    root = tmp_path / "pictures"
    for label, name in enumerate(["cat", "dog"]):
        (root / name).mkdir(parents=True)
        for number in range(12):
            suffix = "png" if number % 2 else "jpg"
            shape = (9 + number, 8 + label, 3) if number % 3 else (9, 8)
            (root / name / f"{number}.{suffix}").write_bytes(encode(noise(*shape), suffix))
    return root
