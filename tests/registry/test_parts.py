"""Big files in an object store: an upload that was interrupted sends what is missing."""

import fsspec
import pytest

from dlhpc.backends import load_backend
from dlhpc.errors import DlhpcError, IntegrityError
from dlhpc.registry import blobs, gc, parts
from dlhpc.registry.manifest import WEIGHTS_FILE, sha256
from dlhpc.registry.places import place
from dlhpc.registry.store import Registry
from dlhpc.registry.verification import verify
from tests.registry.samples import sample
from tests.registry.stores.memory import bucket, keys
from tests.registry.test_object_leases import days_later

CONTENT = bytes(range(256)) * 40
DIGEST = sha256(CONTENT)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(parts, "PART_BYTES", 1000)


@pytest.fixture
def root(request):
    with bucket(request.node.name) as root:
        yield root


@pytest.fixture
def sent(monkeypatch):
    """The lengths of what is uploaded."""
    lengths = []
    system = type(fsspec.filesystem("memory"))
    real = system.pipe_file

    def pipe_file(self, path, value, mode="overwrite"):
        if len(lengths) == pipe_file.broken_at:
            raise ConnectionError("the cable was pulled")
        real(self, path, value, mode)
        lengths.append(len(value))

    pipe_file.broken_at = None
    monkeypatch.setattr(system, "pipe_file", pipe_file)
    return lengths, pipe_file


def test_a_big_file_lies_in_parts(root):
    assert blobs.put(root, CONTENT) == DIGEST
    names = [key.rpartition("/")[2] for key in keys(root)]
    assert [name[:6] for name in names] == [f"{number:05d}-" for number in range(11)]
    assert all(key.startswith(f"sha256/{DIGEST[:2]}/{DIGEST}.parts/") for key in keys(root))
    assert blobs.read(root, DIGEST, "it", len(CONTENT)) == CONTENT
    assert list(blobs.digests(root)) == [DIGEST]
    assert blobs.stored_size(root, DIGEST) == len(CONTENT)


def test_an_interrupted_upload_sends_what_is_missing(root, sent):
    lengths, pipe_file = sent
    pipe_file.broken_at = 7
    with pytest.raises(DlhpcError, match="ConnectionError: the cable was pulled"):
        blobs.put(root, CONTENT)
    pipe_file.broken_at = None
    lengths.clear()
    blobs.put(root, CONTENT)
    assert lengths == [1000, 1000, 1000, 240]
    lengths.clear()
    blobs.put(root, CONTENT)
    assert lengths == []
    assert blobs.read(root, DIGEST, "it") == CONTENT


@pytest.mark.parametrize("damage", ["gone", "first", "flip", "last"])
def test_damage_is_named_and_mended_by_publishing_again(root, damage):
    blobs.put(root, CONTENT)
    there = parts.parts_of(blobs.content_path(root, DIGEST))
    victim = {"gone": there[4], "first": there[0], "flip": there[5], "last": there[-1]}[damage]
    if damage == "flip":
        victim.write_bytes(victim.read_bytes()[:-1] + b"?")
    else:
        victim.unlink()
    with pytest.raises(IntegrityError, match=r"part 4 is missing|part 0 is missing|damaged") as caught:
        blobs.read(root, DIGEST, "it", len(CONTENT))
    assert DIGEST in str(caught.value)
    if damage == "flip":
        assert str(victim) in str(caught.value)
        victim.unlink()  # as the message says
    blobs.put(root, CONTENT)
    assert blobs.read(root, DIGEST, "it", len(CONTENT)) == CONTENT


def test_a_folder_that_parts_were_copied_into_is_read(root, tmp_path):
    blobs.put(root, CONTENT)
    for key, content in keys(root).items():
        (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / key).write_bytes(content)
    assert blobs.read(place(str(tmp_path)), DIGEST, "it", len(CONTENT)) == CONTENT


def test_a_registry_of_big_files(root, monkeypatch):
    monkeypatch.setattr(parts, "PART_BYTES", 100)
    registry = Registry(root, load_backend)
    registry.publish(sample(0), "pets")
    weights = sample(0).manifest.files[WEIGHTS_FILE].sha256
    assert len(parts.parts_of(blobs.content_path(registry.blobs, weights))) > 2
    assert registry.get("pets").digest == sample(0).digest
    found = verify(registry)
    assert (found.problems, found.unused, found.bytes) == ([], 0, sample(0).manifest.size)


def test_parts_of_an_interrupted_publication_are_swept(root, sent):
    registry = Registry(root, load_backend)
    registry.publish(sample(0), "pets")
    lengths, pipe_file = sent
    lengths.clear()
    pipe_file.broken_at = 7
    with pytest.raises(DlhpcError, match="cable"):
        blobs.put(registry.blobs, CONTENT)
    pipe_file.broken_at = None
    assert verify(registry).unused == 1
    assert gc.sweep(registry, now=days_later).removed == {"blob": 7}
    assert verify(registry).unused == 0
