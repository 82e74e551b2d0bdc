"""A model's answers to a part of some data: what an evaluation judges."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from dlhpc.data.dataset import PARTS, Dataset, Part
from dlhpc.data.pipeline import evaluation_batches
from dlhpc.errors import DataError, NotFoundError, UsageError
from dlhpc.ports import Predictor
from dlhpc.spec.data import ArraysSpec, DataSpec, ImageFolderSpec

Progress = Callable[[int, int], None]
"""Told how many examples of how many are done."""


def data_at(path: Path, stored: DataSpec, input_shape: tuple[int, int, int]) -> DataSpec:
    """The spec of other data for a model: a folder of images, or an .npz file.

    Split and preprocessing are those the model was trained with, so that an image which it learnt from does not turn
    up in the test part. Raises NotFoundError and UsageError.
    """
    if not path.exists():
        raise NotFoundError(f"{path}: no such file or folder (--data)")
    common = {"path": path, "split": stored.split, "mean": stored.mean, "std": stored.std}
    if path.suffix == ".npz":
        return ArraysSpec.model_validate(common)
    if not path.is_dir():
        raise UsageError(f"{path}: expected a folder with one sub-folder of images per class, or an .npz file (--data)")
    height, width, channels = input_shape
    if channels not in {1, 3}:
        raise UsageError(f"{path}: images have 1 or 3 channels, the model wants {channels}: give an .npz file (--data)")
    return ImageFolderSpec.model_validate({**common, "image_size": (height, width), "channels": channels})


def check_fits(dataset: Dataset, classes: tuple[str, ...], input_shape: tuple[int, int, int]) -> None:
    """Refuse data whose images or classes are not those of the model."""
    info = dataset.info
    if info.input_shape != input_shape:
        raise DataError(f"the data's images are {list(info.input_shape)}, the model wants {list(input_shape)}")
    if info.classes == classes:
        return
    lacking = [name for name in classes if name not in info.classes]
    unknown = [name for name in info.classes if name not in classes]
    details = [f"the data lacks {_some(lacking)}"] * bool(lacking) + [f"the model lacks {_some(unknown)}"] * bool(
        unknown
    )
    raise DataError(
        f"the data's {len(info.classes)} classes are not the model's {len(classes)}: "
        f"{'; '.join(details) or 'they are in another order'}"
    )


def answers(
    predict: Predictor,
    dataset: Dataset,
    part: Part | Literal["all"],
    batch_size: int,
    progress: Progress = lambda done, total: None,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """Probabilities (N, classes) and labels (N,) of a part, in its order; `all` is every part, one after the other.

    Raises DataError when the part is empty.
    """
    parts: tuple[Part, ...] = PARTS if part == "all" else (part,)
    total = sum(dataset.info.sizes[each] for each in parts)
    if not total:
        raise DataError(f"the {part} part of the data is empty; data.split says how it is cut")
    probabilities, labels = [], []
    done = 0
    for inputs, targets in _batches(dataset, parts, batch_size):
        real = targets >= 0
        probabilities.append(predict(inputs)[real])
        labels.append(targets[real])
        done += int(real.sum())
        progress(done, total)
    return np.concatenate(probabilities), np.concatenate(labels)


def _batches(
    dataset: Dataset, parts: tuple[Part, ...], batch_size: int
) -> Iterator[tuple[npt.NDArray[np.generic], npt.NDArray[np.int32]]]:
    """Batches of one constant size, so that nothing is compiled twice."""
    for part in parts:
        for batch in evaluation_batches(dataset, part, batch_size):
            yield batch.inputs[0], batch.labels[0]


def _some(names: list[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")
