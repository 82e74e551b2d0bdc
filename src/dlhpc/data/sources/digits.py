"""The UCI handwritten digits that scikit-learn ships: real data without a download."""

from __future__ import annotations

import numpy as np

from dlhpc.data.source import MemorySource


def open_digits() -> MemorySource:
    """1,797 images of 8 x 8 x 1, in scikit-learn's order; ids are row numbers.

    The pixels, counts of 0..16, become round(v * 255 / 16). Source: E. Alpaydin & C. Kaynak 1998, "Optical
    Recognition of Handwritten Digits", UCI Machine Learning Repository.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * (255.0 / 16.0)).astype(np.uint8)[..., None]
    names = tuple(str(name) for name in digits.target_names)
    return MemorySource(images, digits.target, np.arange(len(images), dtype=np.int64), names)
