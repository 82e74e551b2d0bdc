"""The .npz source."""

from __future__ import annotations

import numpy as np
import pytest

from dlhpc.data.sources import open_dataset
from dlhpc.errors import DataError, NotFoundError
from dlhpc.spec.data import ArraysSpec, SplitSpec
from dlhpc.spec.model import MLPSpec

MODEL = MLPSpec()


@pytest.fixture
def write(tmp_path, noise):
    def write(name="data.npz", **changes):
        arrays = {"inputs": noise(40, 5, 4, 3), "labels": np.arange(40) % 4} | changes
        np.savez(tmp_path / name, **{key: value for key, value in arrays.items() if value is not None})
        return ArraysSpec(path=tmp_path / name)

    return write


def everything(dataset, part):
    return dataset.read(part, np.arange(dataset.info.sizes[part]))


def test_reads_what_was_written(write, noise):
    dataset = open_dataset(write(), MODEL)
    assert dataset.info.input_shape == (5, 4, 3)
    assert dataset.info.classes == ("0", "1", "2", "3")
    for part in ("train", "validation", "test"):
        rows = dataset.ids(part)  # without `ids`, row numbers
        inputs, labels = everything(dataset, part)
        assert (inputs == noise(40, 5, 4, 3)[rows]).all()
        assert (labels == rows % 4).all()
        assert labels.dtype == np.int32


def test_grey_images_need_no_channel_axis(write, noise):
    assert open_dataset(write(inputs=noise(40, 5, 4)), MODEL).info.input_shape == (5, 4, 1)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.uint64])
def test_any_integer_type_does_for_labels(write, dtype):
    assert open_dataset(write(labels=(np.arange(40) % 4).astype(dtype)), MODEL).info.num_classes == 4


def test_given_ids_decide_the_split(write):
    ids = np.random.default_rng(0).permutation(10**12 + np.arange(40))
    dataset = open_dataset(write(ids=ids), MODEL)
    assert set(np.concatenate([dataset.ids(part) for part in ("train", "validation", "test")])) == set(ids)
    order = np.argsort(ids)
    again = open_dataset(write("sorted.npz", ids=ids[order]), MODEL)
    assert set(again.ids("test")) == set(dataset.ids("test"))


def test_given_class_names_count_also_without_examples(write):
    dataset = open_dataset(write(classes=np.array(["a", "b", "c", "d", "e"])), MODEL)
    assert dataset.info.classes == ("a", "b", "c", "d", "e")


def test_a_models_classes_may_be_more_than_the_labels_show(write):
    assert open_dataset(write(), MLPSpec(num_classes=7)).info.num_classes == 7
    assert open_dataset(write(), MLPSpec(num_classes=3)).info.num_classes == 4


def test_halves(write):
    spec = write().model_copy(update={"split": SplitSpec(method="halves")})
    assert (open_dataset(spec, MODEL).ids("test") == np.arange(20, 40)).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": None}, "no array 'labels'; it has \\['inputs'\\]"),
        ({"inputs": None, "labels": None}, "no array 'inputs' and 'labels'; it has none"),
        ({"inputs": np.zeros((40, 5, 4, 3))}, "'inputs' are float64, expected uint8"),
        ({"inputs": np.zeros((40, 5), np.uint8)}, "shape \\(40, 5\\), expected \\(N, H, W\\)"),
        ({"inputs": np.zeros((40, 5, 0, 3), np.uint8)}, "none of them 0"),
        ({"inputs": np.zeros((0, 5, 4), np.uint8), "labels": np.zeros(0, int)}, "none of them 0"),
        ({"labels": np.zeros(39, int)}, "'labels' is int64 of shape \\(39,\\)"),
        ({"labels": np.zeros((40, 4), int)}, "integers of shape \\(40,\\)"),
        ({"labels": np.zeros(40)}, "'labels' is float64"),
        ({"labels": np.array(["cat"] * 40)}, "'labels' is <U3"),
        ({"labels": np.zeros(40, int)}, "1 class"),
        ({"labels": np.arange(40) % 4 - 1}, "outside 0..2, the first is -1"),
        ({"classes": np.array(["a", "b"])}, "label\\(s\\) lie outside 0..1"),
        ({"classes": np.array(["a", "b", "a", "d"])}, "all different"),
        ({"classes": np.array([["a", "b", "c", "d"]])}, "one name per label"),
        ({"ids": np.zeros(40, int)}, "'ids' must be different"),
        ({"ids": np.arange(40, dtype=np.uint64) + 2**63}, "below 2\\*\\*63"),
        ({"ids": np.arange(40.0)}, "'ids' is float64"),
        ({"labels": np.array([{}] * 40, object)}, "allow_pickle"),
    ],
)
def test_wrong_arrays_are_explained(write, changes, message):
    spec = write(**changes)
    with pytest.raises(DataError, match=message) as caught:
        open_dataset(spec, MODEL)
    assert "label" in str(caught.value) or "class" in str(caught.value) or str(spec.path) in str(caught.value)


def test_a_missing_file():
    with pytest.raises(NotFoundError, match=r"gone\.npz: no such file .*numpy\.savez"):
        open_dataset(ArraysSpec(path="gone.npz"), MODEL)


def test_files_of_other_kinds(tmp_path, write):
    np.save(tmp_path / "single.npy", np.zeros(3))
    (tmp_path / "text.npz").write_text("inputs: all of them")
    (tmp_path / "empty.npz").write_bytes(b"")
    content = write().path.read_bytes()
    (tmp_path / "cut.npz").write_bytes(content[: len(content) // 2])
    (tmp_path / "flipped.npz").write_bytes(content[:500] + bytes([content[500] ^ 1]) + content[501:])
    for name, message in [
        ("single.npy", "single array"),
        ("text.npz", "not a readable"),
        ("empty.npz", "not a readable"),
        ("cut.npz", "not a readable"),
        ("flipped.npz", "not a readable .*CRC"),
        ("", "not a readable"),
    ]:
        with pytest.raises(DataError, match=message):
            open_dataset(ArraysSpec(path=tmp_path / name), MODEL)
