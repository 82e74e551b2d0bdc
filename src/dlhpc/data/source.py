"""What one kind of source must tell before its examples are cut into parts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]


class Source(Protocol):
    """Examples in a fixed order, before they are divided. Labels are looked at row by row, on request only."""

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        ...

    @property
    def ids(self) -> npt.NDArray[np.int64]:
        """A stable, unique number per example."""
        ...

    @property
    def skipped(self) -> tuple[str, ...]:
        """Files left out because they could not be read, each with its reason."""
        ...

    def classes(self, visible: Rows) -> tuple[str, ...]:
        """Name of each label; where labels must be looked at to know, only those of the visible rows are."""
        ...

    def inputs(self, rows: Rows) -> npt.NDArray[np.uint8]:
        """Images (n, H, W, C), owned by the caller."""
        ...

    def labels(self, rows: Rows) -> npt.NDArray[np.int64]:
        """Labels (n,), owned by the caller."""
        ...

    def content(self, rows: Rows) -> bytes:
        """Bytes that change when the inputs of these rows change: the pixels, or what stands for them."""
        ...


@dataclass(frozen=True)
class MemorySource:
    """Examples that lie in arrays."""

    images: npt.NDArray[np.uint8]
    """(N, H, W, C)."""
    targets: npt.NDArray[Any]
    """(N,) integers."""
    ids: npt.NDArray[np.int64]
    """(N,) unique."""
    names: tuple[str, ...] | None = None
    """Class names; None: one class per number up to the greatest visible label."""
    num_classes: int | None = None
    """Number of classes where no names are given and more exist than the visible labels show."""
    marks: npt.NDArray[np.uint8] | None = field(default=None, repr=False)
    """(N, k): stands for the content of each example instead of its pixels."""
    skipped: tuple[str, ...] = ()

    @property
    def input_shape(self) -> tuple[int, int, int]:
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    def classes(self, visible: Rows) -> tuple[str, ...]:
        if self.names is not None:
            return self.names
        count = int(self.targets[visible].max()) + 1 if visible.size else 0
        return tuple(str(label) for label in range(max(count, self.num_classes or 0)))

    def inputs(self, rows: Rows) -> npt.NDArray[np.uint8]:
        return self.images[rows]

    def labels(self, rows: Rows) -> npt.NDArray[np.int64]:
        return self.targets[rows].astype(np.int64)

    def content(self, rows: Rows) -> bytes:
        return (self.images if self.marks is None else self.marks)[rows].tobytes()
