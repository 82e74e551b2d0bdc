"""scikit-learn's digits as they come, and cut in halves."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from dlhpc.data.sources import open_dataset
from dlhpc.spec.data import DigitsSpec
from dlhpc.spec.model import MLPSpec


@pytest.fixture(scope="module")
def dataset():
    return open_dataset(DigitsSpec(), MLPSpec())


def test_facts(dataset):
    info = dataset.info
    assert info.input_shape == (8, 8, 1)
    assert info.classes == tuple("0123456789")
    assert info.sizes["test"] == 899
    assert info.sizes["train"] + info.sizes["validation"] == 898
    assert 60 < info.sizes["validation"] < 120
    assert dataset.skipped == ()


def test_the_test_part_is_the_second_half_in_order(dataset):
    inputs, labels = dataset.read("test", np.arange(899))
    digits = load_digits()
    assert (labels == digits.target[898:]).all()
    assert (np.round(inputs[..., 0] * (16 / 255)) == digits.images[898:]).all()
    assert inputs.max() == 255


def test_validation_is_cut_from_the_first_half(dataset):
    both = np.concatenate([dataset.ids("train"), dataset.ids("validation")])
    assert (np.sort(both) == np.arange(898)).all()


def test_class_counts(dataset):
    counts = dataset.class_counts("train") + dataset.class_counts("validation")
    assert (counts == np.bincount(load_digits().target[:898])).all()
