"""Batches: equal however they are cut, read, or made ahead."""

from __future__ import annotations

import threading
from contextlib import closing

import numpy as np
import pytest

from dlhpc.data import pipeline
from dlhpc.data.parted import PartedDataset
from dlhpc.data.pipeline import TrainingBatches, evaluation_batches
from dlhpc.data.plan import Plan
from dlhpc.data.source import MemorySource
from dlhpc.errors import DataError, UsageError
from dlhpc.spec.data import AugmentSpec, DigitsSpec, SplitSpec

JITTER = DigitsSpec(augment=AugmentSpec(rotation=15.0, translation=0.1, scale=0.1, shear=5.0, horizontal_flip=True))


def batches(dataset, *, batch_size=12, seed=4, spec=JITTER, **options):
    plan = Plan(dataset.info.sizes["train"], batch_size, seed)
    return TrainingBatches(dataset, spec, plan, seed=seed, **options)


def equal(one, other):
    return (
        np.array_equal(one.inputs, other.inputs)
        and np.array_equal(one.labels, other.labels)
        and np.array_equal(one.counts, other.counts)
        and one.first_row == other.first_row
    )


def test_shapes_and_types(small):
    batch = batches(small, steps_per_dispatch=3).read(0)
    assert batch.inputs.shape == (3, 12, 6, 5, 3)
    assert batch.inputs.dtype == np.uint8
    assert batch.labels.shape == (3, 12)
    assert batch.labels.dtype == batch.counts.dtype == np.int32
    assert batch.first_row == 0


def test_an_epoch_holds_every_example_once_and_pads_its_last_batch(small):
    size = small.info.sizes["train"]
    source = batches(small, batch_size=11, spec=DigitsSpec())
    plan = Plan(size, 11, 4)
    epoch = [source.read(step) for step in range(plan.steps_per_epoch)]
    assert [int(batch.counts[0]) for batch in epoch] == [11] * (size // 11) + [size % 11]
    last = epoch[-1]
    real = int(last.counts[0])
    assert 0 < real < 11
    assert (last.labels[0, real:] == -1).all()
    assert not last.inputs[0, real:].any()
    seen = np.concatenate([batch.inputs[0][batch.labels[0] >= 0] for batch in epoch])
    images, _ = small.read("train", np.arange(size))
    assert sorted(image.tobytes() for image in seen) == sorted(image.tobytes() for image in images)


def test_labels_belong_to_their_images(small):
    images, labels = small.read("train", np.arange(small.info.sizes["train"]))
    label_of = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    batch = batches(small, spec=DigitsSpec()).read(2)
    for image, label in zip(batch.inputs[0], batch.labels[0], strict=True):
        assert label_of[image.tobytes()] == label


@pytest.mark.parametrize("world_size", [2, 3, 4])
@pytest.mark.parametrize("steps", [1, 5])
def test_the_ranks_together_hold_the_batch_of_one_process(small, world_size, steps):
    whole = batches(small, steps_per_dispatch=steps)
    ranks = [batches(small, steps_per_dispatch=steps, rank=rank, world_size=world_size) for rank in range(world_size)]
    for step in range(0, 20, steps):
        one, parts = whole.read(step), [rank.read(step) for rank in ranks]
        assert (np.concatenate([part.inputs for part in parts], axis=1) == one.inputs).all()
        assert (np.concatenate([part.labels for part in parts], axis=1) == one.labels).all()
        assert all((part.counts == one.counts).all() for part in parts)
        assert [part.first_row for part in parts] == [rank * 12 // world_size for rank in range(world_size)]


def test_a_restart_at_any_step_gives_the_same_bytes(small):
    straight = list(batches(small).stream(0, 20))
    for start in (0, 1, 7, 19):
        again = list(batches(small).stream(start, 20))
        assert len(again) == 20 - start
        assert all(equal(one, other) for one, other in zip(again, straight[start:], strict=True))


@pytest.mark.parametrize("together", [1, 10**9])
def test_stacked_steps_are_the_single_steps(small, monkeypatch, together):
    monkeypatch.setattr(pipeline, "PIXELS_TOGETHER", together)
    single = [batches(small).read(step) for step in range(10)]
    stacked = list(batches(small, steps_per_dispatch=4).stream(0, 10))
    assert [len(batch.counts) for batch in stacked] == [4, 4, 2]
    for name in ("inputs", "labels", "counts"):
        parts = [np.concatenate([getattr(batch, name) for batch in each]) for each in (single, stacked)]
        assert np.array_equal(*parts)


def test_an_empty_stream(small):
    assert list(batches(small).stream(5, 5)) == []


def test_seed_and_augmentation_change_the_pixels(small):
    base = batches(small).read(0)
    assert not np.array_equal(base.inputs, batches(small, seed=5).read(0).inputs)
    assert not np.array_equal(base.inputs, batches(small, spec=DigitsSpec()).read(0).inputs)


def test_epochs_are_augmented_differently(small):
    steps = Plan(small.info.sizes["train"], 100, 4).steps_per_epoch
    assert steps == 1
    images = [batches(small, batch_size=100).read(step).inputs[0] for step in (0, 1)]
    assert {image.tobytes() for image in images[0]} & {image.tobytes() for image in images[1]} <= {bytes(90)}


def test_batches_own_their_memory(small):
    source = batches(small)
    kept = source.read(0)
    copy = kept.inputs.copy()
    stream = source.stream(0, 8)
    taken = [next(stream) for _ in range(3)]
    assert equal(taken[0], kept)
    taken[0].inputs[...] = 0
    list(stream)
    assert (kept.inputs == copy).all()
    assert equal(source.read(1), taken[1])


def test_closing_a_stream_stops_its_thread(small):
    with closing(batches(small).stream(0, 10**6)) as stream:
        next(stream)
    assert not [thread for thread in threading.enumerate() if thread.name == "dlhpc-prefetch"]


def test_an_error_while_reading_reaches_the_consumer(noise):
    class Broken(MemorySource):
        def inputs(self, rows):
            if 7 in rows:
                raise DataError("row 7 is gone")
            return super().inputs(rows)

    source = Broken(noise(20, 4, 4, 1), np.arange(20) % 2, np.arange(20), marks=noise(20, 1))
    dataset = PartedDataset(source, SplitSpec(validation=0.0, test=0.0))
    with pytest.raises(DataError, match="row 7 is gone"):
        list(batches(dataset, batch_size=5).stream(0, 4))


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_evaluation_sees_a_part_in_order(small, world_size):
    images, labels = small.read("train", np.arange(small.info.sizes["train"]))
    ranks = [
        list(evaluation_batches(small, "train", 12, rank=rank, world_size=world_size)) for rank in range(world_size)
    ]
    assert len({len(batches) for batches in ranks}) == 1
    seen_inputs, seen_labels, total = [], [], 0
    for parts in zip(*ranks, strict=True):
        assert all(part.inputs.shape == (1, 12 // world_size, 6, 5, 3) for part in parts)
        assert len({int(part.counts[0]) for part in parts}) == 1
        total += int(parts[0].counts[0])
        for part in parts:
            real = part.labels[0] >= 0
            seen_inputs.append(part.inputs[0][real])
            seen_labels.append(part.labels[0][real])
    assert total == len(images)
    assert (np.concatenate(seen_inputs) == images).all()
    assert (np.concatenate(seen_labels) == labels).all()


def test_evaluation_of_an_empty_part(noise):
    source = MemorySource(noise(6, 4, 4, 1), np.arange(6) % 2, np.arange(6))
    assert list(evaluation_batches(PartedDataset(source, SplitSpec(validation=0.0)), "validation", 4)) == []


def test_shares_must_be_equal_and_ranks_real(small):
    with pytest.raises(UsageError, match="multiple of 5"):
        batches(small, world_size=5)
    with pytest.raises(UsageError, match="rank 2"):
        batches(small, rank=2, world_size=2)
    with pytest.raises(UsageError, match="multiple of 5"):
        evaluation_batches(small, "train", 12, world_size=5)
