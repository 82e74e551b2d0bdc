"""Made-up data: shape, determinism, and that it can be learnt."""

from __future__ import annotations

import numpy as np
import pytest

from dlhpc.data.sources import open_dataset, synthetic
from dlhpc.errors import ConfigError
from dlhpc.spec.data import SyntheticSpec
from dlhpc.spec.model import MLPSpec


def everything(spec, model=None, part="train"):
    dataset = open_dataset(spec, model or MLPSpec())
    return dataset.read(part, np.arange(dataset.info.sizes[part]))


def test_defaults():
    info = open_dataset(SyntheticSpec(num_examples=50), MLPSpec()).info
    assert info.input_shape == (28, 28, 1)
    assert info.num_classes == 10
    assert sum(info.sizes.values()) == 50


def test_the_model_settles_what_the_data_leaves_open():
    info = open_dataset(SyntheticSpec(num_examples=3000), MLPSpec(num_classes=1000, input_shape=(7, 5, 2))).info
    assert info.input_shape == (7, 5, 2)
    assert info.num_classes == 1000


def test_agreement_is_fine_and_contradiction_is_told():
    model = MLPSpec(num_classes=5, input_shape=(7, 5, 2))
    open_dataset(SyntheticSpec(num_examples=50, num_classes=5, image_shape=(7, 5, 2)), model)
    with pytest.raises(ConfigError, match=r"data.image_shape: \[7, 5, 1\] contradicts model.input_shape: \[7, 5, 2\]"):
        open_dataset(SyntheticSpec(image_shape=(7, 5, 1)), model)
    with pytest.raises(ConfigError, match=r"data.num_classes: 6 contradicts model.num_classes: 5"):
        open_dataset(SyntheticSpec(num_classes=6), model)


def test_the_same_whether_kept_or_made_when_read(monkeypatch):
    spec = SyntheticSpec(num_examples=200, image_shape=(9, 7, 3))
    kept = everything(spec)
    monkeypatch.setattr(synthetic, "KEPT_BYTES", 0)
    assert isinstance(synthetic.open_synthetic(spec, MLPSpec()), synthetic.SyntheticSource)
    made = everything(spec)
    assert (kept[0] == made[0]).all()
    assert (kept[1] == made[1]).all()
    prints = {
        open_dataset(SyntheticSpec(num_examples=200, noise=noise), MLPSpec()).info.fingerprint for noise in (0.1, 0.2)
    }
    assert len(prints) == 2


def test_a_large_source_costs_nothing_until_it_is_read():
    dataset = open_dataset(SyntheticSpec(num_examples=100_000, image_shape=(224, 224, 3)), MLPSpec())
    inputs, _ = dataset.read("train", np.array([0, 70_000]))
    assert inputs.shape == (2, 224, 224, 3)


def test_an_example_is_a_function_of_its_number():
    few, _ = everything(SyntheticSpec(num_examples=100))
    many, _ = everything(SyntheticSpec(num_examples=300))
    assert (few == many[: len(few)]).all()


@pytest.mark.parametrize(
    "change", [{"image_shape": (28, 28, 2)}, {"noise": 0.1}, {"num_classes": 3}, {"num_examples": 201}]
)
def test_each_setting_changes_the_data(change):
    base, other = SyntheticSpec(num_examples=200), SyntheticSpec(**{"num_examples": 200, **change})
    prints = [open_dataset(spec, MLPSpec()).info.fingerprint for spec in (base, other)]
    assert prints[0] != prints[1]


def test_without_noise_a_class_has_one_image():
    inputs, labels = everything(SyntheticSpec(num_examples=200, noise=0.0))
    assert len({image.tobytes() for image in inputs}) == 10
    assert all(len({image.tobytes() for image in inputs[labels == label]}) == 1 for label in range(10))


def test_noise_has_its_deviation():
    grey, labels = everything(SyntheticSpec(num_examples=2000, noise=0.1, num_classes=2, image_shape=(8, 8, 1)))
    inner = grey[labels == 0].astype(float)
    middle = np.abs(inner.mean(axis=0) - 127) < 60  # cells where nothing is cut off at 0 or 255
    assert inner.std(axis=0)[middle].mean() == pytest.approx(25.5, rel=0.05)


@pytest.mark.parametrize("classes", [10, 1000])
def test_it_can_be_learnt(classes):
    spec = SyntheticSpec(num_examples=4096, num_classes=classes, image_shape=(12, 12, 3))
    inputs, labels = everything(spec)
    held_out, targets = everything(spec, part="validation")
    flat = inputs.reshape(len(inputs), -1).astype(np.float32)
    present = np.unique(labels)
    means = np.stack([flat[labels == label].mean(axis=0) for label in present])
    distances = ((held_out.reshape(len(held_out), 1, -1).astype(np.float32) - means) ** 2).sum(axis=2)
    assert (present[distances.argmin(axis=1)] == targets).mean() > 0.95
