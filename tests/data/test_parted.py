"""The Dataset: what is looked at when, and what the fingerprint sees."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from dlhpc.data.parted import PartedDataset
from dlhpc.data.pipeline import TrainingBatches, evaluation_batches
from dlhpc.data.plan import Plan
from dlhpc.data.source import MemorySource
from dlhpc.errors import DataError
from dlhpc.spec.data import DigitsSpec, SplitSpec


class Watched(MemorySource):
    """Remembers whose labels were looked at."""

    @property
    def seen(self) -> set[int]:
        return self.__dict__.setdefault("_seen", set())

    def labels(self, rows):
        self.seen.update(rows.tolist())
        return super().labels(rows)

    def classes(self, visible):
        self.seen.update(visible.tolist())
        return super().classes(visible)


@pytest.fixture
def source(noise):
    return Watched(noise(60, 4, 5, 1), np.arange(60) % 3, np.arange(60))


@pytest.mark.parametrize("method", ["hash", "halves"])
def test_test_labels_are_looked_at_by_nothing_but_reading_the_test(source, method):
    dataset = PartedDataset(source, SplitSpec(method=method))
    plan = Plan(dataset.info.sizes["train"], 8, 0)
    list(TrainingBatches(dataset, DigitsSpec(), plan, seed=0).stream(0, 20))
    list(evaluation_batches(dataset, "validation", 8))
    dataset.class_counts("train")
    dataset.class_counts("validation")
    test = set(dataset.ids("test").tolist())
    assert source.seen == set(range(60)) - test
    dataset.read("test", np.arange(len(test)))
    assert source.seen == set(range(60))


def test_other_test_labels_change_nothing_but_the_test(source):
    dataset = PartedDataset(source, SplitSpec())
    rows = dataset.ids("test")
    targets = source.targets.copy()
    targets[rows] = 99
    changed = PartedDataset(dataclasses.replace(source, targets=targets), SplitSpec())
    assert changed.info == dataset.info
    for part in ("train", "validation"):
        everything = np.arange(dataset.info.sizes[part])
        for mine, theirs in zip(dataset.read(part, everything), changed.read(part, everything), strict=True):
            assert (mine == theirs).all()
    with pytest.raises(DataError, match=r"outside 0\.\.2, the first is 99"):
        changed.read("test", np.arange(1))


def test_reading_gives_owned_arrays(source):
    dataset = PartedDataset(source, SplitSpec())
    inputs, labels = dataset.read("train", np.arange(5))
    inputs[...] = 0
    labels[...] = 7
    again, targets = dataset.read("train", np.arange(5))
    assert again.any()
    assert (targets < 3).all()


@pytest.mark.parametrize(
    ("change", "part", "visible"),
    [
        ("targets", "train", True),
        ("targets", "validation", True),
        ("targets", "test", False),
        ("images", "train", True),
        ("images", "validation", True),
        ("images", "test", False),
    ],
)
def test_the_fingerprint_sees_training_and_validation(source, change, part, visible):
    base = PartedDataset(source, SplitSpec())
    values = getattr(source, change).copy()
    row = base.ids(part)[-1]
    values[row] = (values[row] + 1) % 3
    other = PartedDataset(dataclasses.replace(source, **{change: values}), SplitSpec())
    assert (other.info.fingerprint != base.info.fingerprint) == visible


def test_the_fingerprint_sees_ids_split_classes_and_shape(source):
    ids = source.ids.copy()
    test_row = PartedDataset(source, SplitSpec()).ids("test")[0]
    ids[test_row] += 10**6
    others = [
        (source, SplitSpec()),
        (source, SplitSpec(test=0.2)),
        (source, SplitSpec(method="halves")),
        (dataclasses.replace(source, ids=ids), SplitSpec()),
        (dataclasses.replace(source, names=("a", "b", "c")), SplitSpec()),
        (dataclasses.replace(source, images=source.images.reshape(60, 5, 4, 1)), SplitSpec()),
    ]
    assert len({PartedDataset(*each).info.fingerprint for each in others}) == len(others)


def test_untrained_classes_are_told(source, caplog):
    PartedDataset(dataclasses.replace(source, num_classes=20), SplitSpec())
    assert "17 of 20 classes have no training example: 3, 4, 5, 6, 7, ..." in caplog.text


def test_no_examples_at_all():
    empty = MemorySource(np.zeros((0, 4, 4, 1), np.uint8), np.zeros(0, int), np.zeros(0, np.int64))
    with pytest.raises(DataError, match="0 example"):
        PartedDataset(empty, SplitSpec())
