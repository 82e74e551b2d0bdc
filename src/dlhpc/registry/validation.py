"""Accuracy on the validation part of a version's own data, for what is derived from it. Never the test part."""

from __future__ import annotations

from collections.abc import Sequence

from dlhpc.data.pipeline import evaluation_batches
from dlhpc.data.sources import open_dataset
from dlhpc.errors import DataError
from dlhpc.ports import Predictor
from dlhpc.registry.manifest import Manifest

_BATCH = 256


def accuracies(manifest: Manifest, predictors: Sequence[Predictor]) -> tuple[int, list[float]]:
    """Number of validation images, and the share that each predictor gets right.

    Raises DataError, NotFoundError or another DlhpcError when the data is not what the version was trained with, cannot
    be opened, or has no validation part.
    """
    run = manifest.run
    dataset = open_dataset(run.data, run.model)
    if dataset.info.fingerprint != manifest.data_fingerprint:
        raise DataError("the data has changed since the version was trained")
    total = dataset.info.sizes["validation"]
    if not total:
        raise DataError("the data has no validation part")
    right = [0] * len(predictors)
    for batch in evaluation_batches(dataset, "validation", _BATCH):
        labels = batch.labels[0]
        for index, predict in enumerate(predictors):
            right[index] += int((predict(batch.inputs[0]).argmax(axis=1) == labels).sum())
    return total, [count / total for count in right]
