"""The index of labels saves opening them, and is never believed against them."""

import json
import os
import random

import pytest

from dlhpc.backends import load_backend
from dlhpc.registry import label_index, labels
from dlhpc.registry.store import Registry
from dlhpc.registry.verification import verify
from tests.registry.samples import sample

COUNT = 12


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(labels, "INDEX_EVERY", 5)
    store = Registry(tmp_path / "registry", load_backend)
    for seed in range(COUNT):
        store.publish(sample(seed), "pets", run=f"runs/{seed}" if seed % 2 else None)
    return store


@pytest.fixture
def index(store):
    return store.names_folder / "pets" / ".labels"


def opened(monkeypatch):
    """The numbers of the labels that are read from now on."""
    numbers, real = [], labels.label

    def label(folder, name, number):
        numbers.append(number)
        return real(folder, name, number)

    monkeypatch.setattr(labels, "label", label)
    return numbers


def truth(store):
    return [(number + 1, sample(number).digest) for number in range(COUNT)]


def listed(store):
    return [(version.number, version.digest) for version in store.list("pets")]


def test_it_says_what_the_labels_say(store, index):
    rows = label_index.read(index.parent, "pets")
    assert len(rows) == 10
    assert rows == [label_index.Label.of(labels.label(store.versions("pets"), "pets", n)) for n in range(1, 11)]
    assert [row.run for row in rows[:4]] == [None, "runs/1", None, "runs/3"]


def test_only_the_labels_beyond_it_are_opened(store, monkeypatch):
    read = opened(monkeypatch)
    assert listed(store) == truth(store)
    assert read == [10, 11, 12]  # the newest that is indexed says whether the index is of these labels


def test_a_publication_does_not_open_all_labels(store, monkeypatch):
    read = opened(monkeypatch)
    store.publish(sample(99), "pets")
    assert set(read) == {10, 11, 12}
    assert store.publish(sample(3), "pets") == sample(3).digest
    assert len(store.list("pets")) == COUNT + 1


def test_without_it_all_is_the_same(store, index):
    index.unlink()
    assert listed(store) == truth(store)
    assert [label.ref for label in store.labels(sample(3).digest)] == ["pets:4"]
    store.publish(sample(3), "pets")
    assert len(store.list("pets")) == COUNT
    store.publish(sample(99), "pets")
    assert len(label_index.read(index.parent, "pets")) == COUNT + 1


@pytest.mark.parametrize("content", [b"", b"\n", b"{}", b"00\n{}", b"\xff" * 100])
def test_what_is_no_index_is_none(store, index, content):
    index.write_bytes(content)
    assert listed(store) == truth(store)


def test_flipped_bits_change_no_answer(store, index):
    content, draw = index.read_bytes(), random.Random(0)
    for _ in range(200):
        position, bit = draw.randrange(len(content)), draw.randrange(8)
        index.write_bytes(content[:position] + bytes([content[position] ^ (1 << bit)]) + content[position + 1 :])
        assert label_index.read(index.parent, "pets") == []
    assert listed(store) == truth(store)
    store.publish(sample(2), "pets")
    assert len(store.list("pets")) == COUNT


def test_an_index_of_another_name_or_format_is_none(store, index):
    rows = label_index.read(index.parent, "pets")
    assert label_index.read(index.parent, "plants") == []
    content = index.read_bytes().split(b"\n", 1)[1]
    later = json.dumps({**json.loads(content), "format": 2}).encode()
    index.write_bytes(label_index.sha256(later).encode() + b"\n" + later)
    assert label_index.read(index.parent, "pets") == []
    assert rows


def test_an_index_of_other_labels_is_not_believed(store, index, tmp_path):
    """A registry was restored from a backup, but for the hidden file."""
    other = Registry(tmp_path / "other", load_backend)
    for seed in reversed(range(COUNT)):
        other.publish(sample(seed), "pets")
    index.write_bytes((other.names_folder / "pets" / ".labels").read_bytes())
    assert listed(store) == truth(store)


def test_an_index_that_is_longer_than_the_list_is_not_believed(store):
    for number in (COUNT, 11, 10):
        os.unlink(store.versions("pets") / f"{number}.json")
    assert listed(store) == truth(store)[:9]


def test_an_index_that_lies_is_told_and_overruled(store, index):
    rows = label_index.read(index.parent, "pets")
    rows[2] = rows[2]._replace(manifest=sample(77).digest)
    label_index.write(index.parent, "pets", rows)
    (problem,) = verify(store).problems
    assert "pets/.labels: says another thing than" in problem
    assert "3.json; remove it" in problem
    assert store.labels(sample(77).digest) == ()
    assert store.resolve("pets:3") == sample(2).digest


def test_a_disk_that_is_full_costs_the_index_not_the_version(store, index, monkeypatch):
    index.unlink()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(label_index, "replace", full)
    store.publish(sample(99), "pets")
    assert store.resolve("pets") == sample(99).digest
