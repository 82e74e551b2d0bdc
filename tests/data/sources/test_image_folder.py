"""Folders of image files: decoded once, damaged files named."""

from __future__ import annotations

import logging
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from dlhpc.data.decode import decode_image
from dlhpc.data.sources import image_folder, open_dataset
from dlhpc.data.sources.image_folder import open_image_folder, stable_id
from dlhpc.errors import DataError
from dlhpc.spec.data import ImageFolderSpec, SplitSpec
from dlhpc.spec.model import MLPSpec


def spec(folder, **changes):
    return ImageFolderSpec(**{"path": folder, "image_size": (9, 8), **changes})


def by_id(dataset):
    found = {}
    for part in ("train", "validation", "test"):
        inputs, labels = dataset.read(part, np.arange(dataset.info.sizes[part]))
        for number, image, label in zip(dataset.ids(part), inputs, labels, strict=True):
            found[int(number)] = (part, image.tobytes(), int(label))
    return found


@pytest.mark.parametrize("channels", [1, 3])
def test_every_file_is_an_example(folder, channels):
    dataset = open_dataset(spec(folder, channels=channels), MLPSpec())
    assert dataset.info.classes == ("cat", "dog")
    assert dataset.info.input_shape == (9, 8, channels)
    assert sum(dataset.info.sizes.values()) == 24
    found = by_id(dataset)
    for path in folder.glob("*/*"):
        _, image, label = found[stable_id(path.relative_to(folder))]
        assert image == decode_image(path.read_bytes(), (9, 8, channels)).tobytes()
        assert label == ["cat", "dog"].index(path.parent.name)


def test_the_size_is_a_setting(folder):
    assert open_dataset(spec(folder, image_size=(4, 6)), MLPSpec()).info.input_shape == (4, 6, 3)


def test_ids_are_stable():
    assert stable_id(Path("cat/1.png")) == 3827428694506742537 == stable_id(Path("cat", "1.png"))
    assert stable_id(Path("caf\u00e9/1.png")) == stable_id(Path("cafe\u0301/1.png"))


def test_an_example_keeps_id_and_part_when_files_come_and_go(folder, tmp_path):
    shares = SplitSpec(validation=0.3, test=0.3)  # large enough that no part has to borrow its only example
    before = by_id(open_dataset(spec(folder, split=shares), MLPSpec()))
    shutil.copy(folder / "cat" / "3.png", folder / "cat" / "0000.png")
    (folder / "dog" / "7.png").unlink()
    shutil.move(folder, tmp_path / "moved")
    after = by_id(open_dataset(spec(tmp_path / "moved", split=shares), MLPSpec()))
    common = set(before) & set(after)
    assert len(common) == 23
    assert all(before[number] == after[number] for number in common)


def damage(folder):
    (folder / "cat" / "4.jpg").write_bytes((folder / "cat" / "4.jpg").read_bytes()[:200])
    (folder / "dog" / "1.png").write_text("<html>404 not found</html>")
    (folder / "dog" / "3.png").unlink()
    (folder / "dog" / "3.png").symlink_to("nowhere.png")


def test_damaged_files_are_named_and_skipped(folder, caplog):
    whole = by_id(open_dataset(spec(folder), MLPSpec()))
    damage(folder)
    with caplog.at_level(logging.WARNING):
        dataset = open_dataset(spec(folder), MLPSpec())
    assert sum(dataset.info.sizes.values()) == 21
    assert "3 of 24 images cannot be decoded and are skipped" in caplog.text
    for name in ("cat/4.jpg: the image is damaged", "dog/1.png: not a PNG", "dog/3.png: "):
        assert name in caplog.text
        assert any(name in reason for reason in dataset.skipped)
    rest = by_id(dataset)
    assert all(rest[number] == whole[number] for number in rest)


def test_damaged_files_are_refused_when_told(folder):
    damage(folder)
    with pytest.raises(DataError, match="3 of 24 images cannot be decoded; mend") as caught:
        open_image_folder(spec(folder, on_corrupt="refuse"))
    assert "4.jpg" in str(caught.value)
    assert "on_corrupt: skip" in str(caught.value)


def test_a_whole_folder_is_not_refused(folder):
    assert open_image_folder(spec(folder, on_corrupt="refuse")).skipped == ()


def test_nothing_but_damaged_files(folder):
    for path in folder.glob("*/*"):
        path.write_bytes(b"x")
    with pytest.raises(DataError, match="24 of 24 images cannot be decoded:") as caught:
        open_image_folder(spec(folder))
    assert str(caught.value).count("not a PNG") == image_folder.NAMED
    assert "..." in str(caught.value)


def test_a_class_that_lost_all_files_is_told(folder, caplog):
    for path in (folder / "dog").iterdir():
        path.write_bytes(b"x")
    with caplog.at_level(logging.WARNING):
        open_dataset(spec(folder), MLPSpec())
    assert "1 of 2 classes have no training example: dog" in caplog.text


def test_a_large_folder_lies_in_a_temporary_file(folder, monkeypatch, tmp_path):
    damage(folder)
    small = open_dataset(spec(folder), MLPSpec())
    monkeypatch.setattr(image_folder, "IN_MEMORY_BYTES", 100)
    monkeypatch.setattr(image_folder.tempfile, "tempdir", str(tmp_path))
    source = open_image_folder(spec(folder))
    assert isinstance(source.images.base.base, np.memmap)
    assert type(source.inputs(np.array([0, 3]))) is np.ndarray
    large = open_dataset(spec(folder), MLPSpec())
    assert by_id(small) == by_id(large)
    assert small.info == large.info
    assert not list(tmp_path.glob("tmp*"))


def test_a_folder_larger_than_the_disk_is_refused(folder, monkeypatch):
    monkeypatch.setattr(image_folder, "IN_MEMORY_BYTES", 100)
    with pytest.raises(DataError, match=r"GB free: lower data\.image_size"):
        open_image_folder(spec(folder, image_size=(10**6, 10**6)))


def test_the_fingerprint_sees_names_and_content_of_what_is_trained_on(folder):
    base = open_dataset(spec(folder), MLPSpec())
    assert open_dataset(spec(folder), MLPSpec()).info.fingerprint == base.info.fingerprint
    names = {stable_id(path.relative_to(folder)): path for path in folder.glob("*/*")}
    train, other = (names[int(number)] for number in base.ids("train")[:2])
    content = train.read_bytes()
    train.write_bytes(content + b"\0")  # after the end of the image: the same pixels, another file
    assert open_dataset(spec(folder), MLPSpec()).info.fingerprint != base.info.fingerprint
    train.write_bytes(content)
    other.rename(other.with_name(f"new{other.suffix}"))
    assert open_dataset(spec(folder), MLPSpec()).info.fingerprint != base.info.fingerprint


def test_an_interruption_cancels_what_is_left(folder, monkeypatch):
    calls = []
    cancelled = threading.Event()

    class Pool(ThreadPoolExecutor):
        def shutdown(self, wait=True, *, cancel_futures=False):
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            cancelled.set()
            super().shutdown(wait=wait)

    def interrupted(*_):
        calls.append(threading.current_thread())
        if len(calls) > 1:
            cancelled.wait()
        raise KeyboardInterrupt

    monkeypatch.setattr(image_folder, "ThreadPoolExecutor", Pool)
    monkeypatch.setattr(image_folder, "decode_image", interrupted)
    monkeypatch.setattr(image_folder.os, "cpu_count", lambda: 1)
    with pytest.raises(KeyboardInterrupt):
        open_image_folder(spec(folder))
    assert len(calls) <= 2
    assert not any(thread.is_alive() for thread in calls)
