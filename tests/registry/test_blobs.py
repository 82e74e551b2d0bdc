import hashlib

import pytest

from dlhpc.errors import IntegrityError
from dlhpc.registry import blobs

CONTENT = b"some bytes"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def root(tmp_path):
    assert blobs.put(tmp_path / "blobs", CONTENT) == DIGEST
    return tmp_path / "blobs"


def test_what_was_put_is_read(root):
    path = blobs.content_path(root, DIGEST)
    assert path == root / "sha256" / DIGEST[:2] / DIGEST
    assert path.read_bytes() == CONTENT
    assert blobs.read(root, DIGEST, "it", len(CONTENT)) == CONTENT
    assert blobs.read(root, DIGEST, "it") == CONTENT


def test_the_same_bytes_are_stored_once_and_not_written_again(root):
    before = blobs.content_path(root, DIGEST).stat()
    blobs.put(root, CONTENT)
    after = blobs.content_path(root, DIGEST).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("damage", [b"", b"some bytez", CONTENT + b"x"])
def test_putting_again_mends_damage(root, damage):
    blobs.content_path(root, DIGEST).write_bytes(damage)
    blobs.put(root, CONTENT)
    assert blobs.read(root, DIGEST, "it") == CONTENT


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (b"some bytez", f"expected {DIGEST}: the model is damaged"),
        (CONTENT + b"x", "11 bytes, expected 10: the model is damaged"),
        (b"", "0 bytes, expected 10"),
    ],
)
def test_damage_is_refused_naming_the_file_and_what_it_held(root, damage, message):
    path = blobs.content_path(root, DIGEST)
    path.write_bytes(damage)
    with pytest.raises(IntegrityError, match=message) as caught:
        blobs.read(root, DIGEST, "the model", len(CONTENT))
    assert str(path) in str(caught.value)


def test_a_missing_file_is_refused(root):
    blobs.content_path(root, DIGEST).unlink()
    with pytest.raises(IntegrityError, match=f"{DIGEST}: missing: it holds the model"):
        blobs.read(root, DIGEST, "the model")


def test_what_cannot_be_read_cannot_be_trusted(root):
    path = blobs.content_path(root, DIGEST)
    path.unlink()
    path.mkdir()
    with pytest.raises(IntegrityError, match=f"{DIGEST}: cannot be read"):
        blobs.read(root, DIGEST, "the model")


def test_digests_are_listed_by_prefix(root):
    digests = sorted(blobs.put(root, f"{number}".encode()) for number in range(50))
    assert list(blobs.digests(root)) == sorted([DIGEST, *digests])
    assert list(blobs.digests(root, digests[7][:8])) == [digests[7]]
    assert list(blobs.digests(root, "0" * 8)) == []
    assert list(blobs.digests(root / "nowhere")) == []


@pytest.mark.parametrize("name", ["sha256/zz", "sha256/00/README", f"sha256/00/{DIGEST}x"])
def test_a_file_that_does_not_belong_is_named(root, name):
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_text("")
    with pytest.raises(IntegrityError, match="unexpected file") as caught:
        list(blobs.digests(root))
    assert str(root / name) in str(caught.value)


def test_leftovers_of_an_interrupted_writer_are_passed_over(root):
    (blobs.content_path(root, DIGEST).parent / f".{DIGEST}.1.abcd.tmp").write_bytes(b"half")
    assert list(blobs.digests(root)) == [DIGEST]


def test_the_bytes_that_are_hashed_are_the_bytes_that_are_given(root, monkeypatch):
    """The file is opened once: what is swapped in afterwards is never looked at."""
    path = blobs.content_path(root, DIGEST)
    monkeypatch.setattr(hashlib, "sha256", swapping(path, hashlib.sha256))
    assert blobs.read(root, DIGEST, "it") == CONTENT
    assert path.read_bytes() == b"swapped!!!"


def swapping(path, real):
    def sha256(content):
        path.write_bytes(b"swapped!!!")
        return real(content)

    return sha256
