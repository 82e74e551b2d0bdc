"""A source cut into its parts: the Dataset that training, evaluation and the command line use."""

from __future__ import annotations

import hashlib
import logging
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from dlhpc.data.dataset import DatasetInfo, Part
from dlhpc.data.source import Source
from dlhpc.data.split import split_rows
from dlhpc.errors import DataError
from dlhpc.spec.data import SplitSpec

logger = logging.getLogger(__name__)

HASHED_AT_ONCE = 4096
"""Examples whose content is copied at a time while the fingerprint is made."""


class PartedDataset:
    """A Dataset over one source. No label of the test part is looked at before `read("test", ...)` is called."""

    def __init__(self, source: Source, split: SplitSpec) -> None:
        """Cut the source. Raises DataError for empty data, a single class, or labels outside the classes."""
        self._source = source
        self._rows = split_rows(source.ids, split)
        visible = np.concatenate([self._rows["train"], self._rows["validation"]])
        classes = source.classes(visible)
        if len(classes) < 2:
            raise DataError(f"the data has {len(classes)} class(es) ({', '.join(classes)}); a classifier needs two")
        _check_labels(source.labels(visible), len(classes))
        self._warn_of_untrained(classes)
        self._info = DatasetInfo(
            input_shape=source.input_shape,
            classes=classes,
            sizes={part: len(rows) for part, rows in self._rows.items()},
            fingerprint=self._fingerprint(classes),
        )

    @property
    def info(self) -> DatasetInfo:
        return self._info

    @property
    def skipped(self) -> tuple[str, ...]:
        """Files left out because they could not be read, each with its reason."""
        return self._source.skipped

    def ids(self, part: Part) -> npt.NDArray[np.int64]:
        return self._source.ids[self._rows[part]]

    def read(self, part: Part, positions: npt.NDArray[np.int64]) -> tuple[npt.NDArray[Any], npt.NDArray[np.int32]]:
        rows = self._rows[part][positions]
        labels = self._source.labels(rows)
        _check_labels(labels, len(self._info.classes))
        return self._source.inputs(rows), labels.astype(np.int32)

    def class_counts(self, part: Literal["train", "validation"]) -> npt.NDArray[np.int64]:
        """Examples of each class in a part. The test's labels are not there to be counted."""
        return self._counts(part, len(self._info.classes))

    def _counts(self, part: Part, num_classes: int) -> npt.NDArray[np.int64]:
        return np.bincount(self._source.labels(self._rows[part]), minlength=num_classes)

    def _warn_of_untrained(self, classes: tuple[str, ...]) -> None:
        counts = self._counts("train", len(classes))
        untrained = [classes[label] for label in np.flatnonzero(counts == 0)]
        if untrained:
            shown = ", ".join(untrained[:5]) + (", ..." if len(untrained) > 5 else "")
            logger.warning("%d of %d classes have no training example: %s", len(untrained), len(classes), shown)

    def _fingerprint(self, classes: tuple[str, ...]) -> str:
        digest = hashlib.sha256(repr(("dlhpc-data-1", self._source.input_shape, classes)).encode())
        parts: tuple[Part, ...] = ("train", "validation")
        for part in parts:
            rows = self._rows[part]
            digest.update(f"{part} {len(rows)}".encode())
            digest.update(self._source.ids[rows].astype("<i8").tobytes())
            digest.update(self._source.labels(rows).astype("<i8").tobytes())
            for start in range(0, len(rows), HASHED_AT_ONCE):
                digest.update(self._source.content(rows[start : start + HASHED_AT_ONCE]))
        digest.update(f"test {len(self._rows['test'])}".encode())
        digest.update(self.ids("test").astype("<i8").tobytes())
        return digest.hexdigest()


def _check_labels(labels: npt.NDArray[np.int64], num_classes: int) -> None:
    wrong = labels[(labels < 0) | (labels >= num_classes)]
    if wrong.size:
        raise DataError(
            f"{wrong.size} label(s) lie outside 0..{num_classes - 1}, the first is {int(wrong[0])}: "
            "number the classes from 0, or name them all in `classes`"
        )
