"""The affine jitter against scipy's, and what each setting does."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from dlhpc.data import augment as module
from dlhpc.data.augment import augment, maps
from dlhpc.spec.data import AugmentSpec

ALL = AugmentSpec(rotation=30.0, translation=0.2, scale=0.3, shear=20.0, horizontal_flip=True)
SETTINGS = {"rotation": 20.0, "translation": 0.2, "scale": 0.3, "shear": 20.0, "horizontal_flip": True}


def jitter(images, spec, seed=0, epoch=0, first_id=0):
    count = len(images)
    return augment(images, np.arange(count) + first_id, np.full(count, epoch), spec, seed)


@pytest.mark.parametrize("shape", [(8, 8, 1), (7, 12, 3), (33, 20, 2), (1, 9, 1), (5, 1, 3), (1, 1, 1)])
def test_agrees_with_scipy(noise, shape):
    height, width, channels = shape
    images = noise(20, *shape)
    ids, epochs = np.arange(20) * 2**33, np.arange(20)
    ours = augment(images, ids, epochs, ALL, 7)
    matrix, shift = maps(ids, epochs, ALL, 7, (height, width))
    middle = np.array([height - 1, width - 1]) / 2
    for image, mine, matrix_xy, shift_xy in zip(images, ours, matrix, shift, strict=True):
        inverse = matrix_xy[::-1, ::-1]  # scipy counts (y, x)
        offset = middle + shift_xy[::-1] - inverse @ middle
        for channel in range(channels):
            plane = image[..., channel].astype(np.float64)
            theirs = ndimage.affine_transform(plane, inverse, offset, order=1, mode="nearest")
            # Coordinates are rounded to 1/256 pixel (half a level per axis on pure noise), and the result to a level.
            assert np.abs(mine[..., channel] - theirs).max() <= 2.0


@pytest.mark.parametrize("setting", SETTINGS)
def test_each_setting_changes_something(noise, setting):
    images = noise(16, 9, 9, 1)
    assert (jitter(images, AugmentSpec(**{setting: SETTINGS[setting]})) != images).any()
    rest = ALL.model_copy(update={setting: AugmentSpec().model_dump()[setting]})
    assert (jitter(images, rest) != jitter(images, ALL)).any()


def test_nothing_set_changes_nothing(noise):
    images = noise(4, 9, 9, 3)
    assert jitter(images, AugmentSpec()) is images


def test_settings_too_small_to_see_change_nothing(noise):
    images = noise(4, 8, 6, 3)
    assert (jitter(images, AugmentSpec(rotation=1e-6)) == images).all()


def test_flip_mirrors_about_half_of_the_images_exactly(noise):
    images = noise(400, 4, 5, 3)
    flipped = jitter(images, AugmentSpec(horizontal_flip=True))
    mirrored = (flipped == images[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (mirrored | (flipped == images).all(axis=(1, 2, 3))).all()
    assert 150 < mirrored.sum() < 250


def test_translation_moves_by_at_most_its_share():
    images = np.zeros((200, 11, 21, 1), np.uint8)
    images[:, 5, 10] = 255
    moved = jitter(images, AugmentSpec(translation=0.2)).astype(np.float64)[..., 0]
    total = moved.sum(axis=(1, 2))
    down = (moved.sum(axis=2) * np.arange(11)).sum(axis=1) / total - 5
    right = (moved.sum(axis=1) * np.arange(21)).sum(axis=1) / total - 10
    assert 0.8 * 2.2 < np.abs(down).max() <= 2.3
    assert 0.8 * 4.2 < np.abs(right).max() <= 4.3


@pytest.mark.parametrize(
    ("setting", "value", "quantity", "greatest"),
    [
        ("rotation", 30.0, lambda m: np.degrees(np.arctan2(m[:, 0, 1], m[:, 0, 0])), 30.0),
        ("shear", 20.0, lambda m: np.degrees(np.arctan(m[:, 0, 1])), 20.0),
        ("scale", 0.3, lambda m: 1.0 / m[:, 0, 0] - 1.0, 0.3),
    ],
)
def test_values_fill_their_range_evenly(setting, value, quantity, greatest):
    ids = np.arange(4000)
    matrix, shift = maps(ids, np.zeros_like(ids), AugmentSpec(**{setting: value}), 0, (8, 8))
    drawn = quantity(matrix)
    assert not shift.any()
    assert np.abs(drawn).max() <= greatest * (1 + 1e-9)
    assert np.abs(drawn).max() > 0.99 * greatest
    assert drawn.mean() == pytest.approx(0.0, abs=0.04 * greatest)
    assert drawn.std() == pytest.approx(greatest / 3**0.5, rel=0.05)


def test_draws_depend_on_seed_epoch_and_both_words_of_the_id(noise):
    images = np.broadcast_to(noise(1, 9, 9, 1), (3, 9, 9, 1)).copy()
    base = jitter(images, ALL)
    assert len({image.tobytes() for image in base}) == 3
    others = [jitter(images, ALL, seed=1), jitter(images, ALL, epoch=1), jitter(images, ALL, first_id=2**32)]
    assert len({base.tobytes(), *(other.tobytes() for other in others)}) == 4


def test_an_image_does_not_depend_on_its_company(noise, monkeypatch):
    images, ids, epochs = noise(12, 9, 7, 3), np.arange(12) * 77, np.arange(12) // 5
    whole = augment(images, ids, epochs, ALL, 3)
    alone = [augment(images[i : i + 1], ids[i : i + 1], epochs[i : i + 1], ALL, 3)[0] for i in range(12)]
    assert (whole == np.stack(alone)).all()
    order = np.random.default_rng(0).permutation(12)
    assert (augment(images[order], ids[order], epochs[order], ALL, 3) == whole[order]).all()
    monkeypatch.setattr(module, "PIXELS_AT_ONCE", 5 * 63)
    assert (augment(images, ids, epochs, ALL, 3) == whole).all()


def test_views_and_empty_batches_work(noise):
    images = noise(6, 9, 14, 3)[:, :, ::2]
    assert (jitter(images, ALL) == jitter(images.copy(), ALL)).all()
    assert jitter(images[:0], ALL).shape == (0, 9, 7, 3)
