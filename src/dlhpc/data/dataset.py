"""What a data source offers: examples by id, cut into three parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class DatasetInfo:
    """Facts about a source that do not need its pixels."""

    input_shape: tuple[int, int, int]
    """Height, width, channels."""
    classes: tuple[str, ...]
    """Name of each label, in label order."""
    sizes: dict[Part, int]
    """Examples in each part."""
    fingerprint: str
    """sha256 (hex) over ids, labels and content of the training and validation examples, and the ids of the test's."""

    @property
    def num_classes(self) -> int:
        return len(self.classes)


class Dataset(Protocol):
    """A source cut into parts."""

    @property
    def info(self) -> DatasetInfo:
        """Shape, classes, sizes and fingerprint."""
        ...

    def ids(self, part: Part) -> npt.NDArray[np.int64]:
        """Stable number of each example of a part, in the part's order."""
        ...

    def read(self, part: Part, positions: npt.NDArray[np.int64]) -> tuple[npt.NDArray[Any], npt.NDArray[np.int32]]:
        """Inputs (n, H, W, C) uint8 and labels (n,) of the examples at these positions of a part."""
        ...
