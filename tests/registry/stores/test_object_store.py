"""A registry in an object store is the same registry, file by key."""

import threading
from itertools import pairwise
from pathlib import Path

import fsspec
import pytest

from dlhpc import api
from dlhpc.backends import load_backend
from dlhpc.errors import ConflictError, DlhpcError, IntegrityError, MissingExtraError, NotFoundError, UsageError
from dlhpc.registry.exchange import copy
from dlhpc.registry.store import Registry
from dlhpc.registry.stores import object_store
from dlhpc.registry.stores.object_store import ObjectPath
from dlhpc.registry.verification import verify
from tests.registry.samples import sample
from tests.registry.stores.memory import bucket, keys


@pytest.fixture
def root(request):
    with bucket(request.node.name.replace("[", "-").rstrip("]")) as root:
        yield root


@pytest.fixture
def registry(root):
    return Registry(str(root), load_backend)


@pytest.fixture
def filled(registry):
    for seed in range(3):
        registry.publish(sample(seed), "pets", alias="production" if seed == 1 else None)
    registry.publish(sample(3), "plants")
    return registry


def test_a_path_is_a_key(root):
    path = root / "names" / "pets"
    assert (path.name, path.parent, str(path)) == ("pets", root / "names", f"{root}/names/pets")
    assert path.relative_to(root).as_posix() == "names/pets"
    assert not path.exists()
    assert path.sizes() == {}
    with pytest.raises(FileNotFoundError):
        path.read_bytes()
    (path / "1.json").write_bytes(b"one")
    assert path.exists()
    assert path.sizes() == {"1.json": 3}
    assert ((path / "1.json").size(), (path / "1.json").read_bytes()) == (3, b"one")


@pytest.mark.parametrize("url", ["ftp://bucket/x", "s3://", "s3:///", "bucket"])
def test_urls_that_name_no_object_store(url):
    with pytest.raises(UsageError, match=r"expected s3://bucket/prefix"):
        ObjectPath.parse(url)


def test_what_is_published_is_what_is_got(filled):
    assert filled.get("pets").digest == sample(2).digest
    assert filled.resolve("pets@production") == sample(1).digest
    assert filled.resolve(f"sha256:{sample(0).digest[:10]}") == sample(0).digest
    assert filled.names() == ("pets", "plants")
    assert filled.newest().ref == "plants:1"
    assert [version.sequence for version in filled.list("pets")] == [1, 2, 4]
    filled.tag("pets:1", "stage", "gold")
    filled.note("pets:1", "hello")
    assert filled.tags("pets:1") == {"stage": "gold"}
    assert [note.text for note in filled.notes("pets:1")] == ["hello"]
    found = verify(filled)
    assert (found.versions, found.labels, found.problems, found.unused) == (4, 4, [], 0)
    assert found.bytes == sum(sample(seed).manifest.size for seed in range(4))


def test_the_keys_are_the_files_of_a_folder(filled, tmp_path):
    """What was copied out of the bucket, by whatever tool, is a registry in a folder."""
    for key, content in keys(filled.root).items():
        path = tmp_path / "copy" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    folder = Registry(tmp_path / "copy", load_backend)
    assert verify(folder).problems == []
    assert folder.list("pets") == filled.list("pets")


def test_nothing_there(registry):
    with pytest.raises(NotFoundError, match="no model is published in memory://"):
        registry.newest()


def test_a_place_that_holds_something_else_is_refused(registry, root):
    (root / "photo.png").write_bytes(b"x")
    with pytest.raises(ConflictError, match=r"not empty \(it has 'photo.png'\)"):
        registry.publish(sample(), "pets")


@pytest.mark.parametrize("damage", ["flip", "gone", "swap"])
def test_damage_is_named(filled, root, damage):
    blobs = [key for key in keys(root) if key.startswith("blobs/")]
    victim = ObjectPath(root.scheme, f"{root.key}/{blobs[0]}")
    if damage == "gone":
        victim.unlink()
    elif damage == "swap":
        victim.write_bytes(keys(root)[blobs[1]])
    else:
        victim.write_bytes(bytes([victim.read_bytes()[0] ^ 1]) + victim.read_bytes()[1:])
    problems = verify(filled).problems
    assert len(problems) == 1
    assert str(victim) in problems[0]


def test_a_record_is_created_or_refused(root):
    path = root / "1.json"
    assert path.put_if_absent(b"first")
    assert not path.put_if_absent(b"second")
    assert not path.create(b"second")
    assert path.create(b"first")  # sent again by a library that lost the answer
    assert path.read_bytes() == b"first"


def test_two_writers_get_one_label_each(root):
    """Four threads at once: contiguous labels, and every version verifies."""
    artifacts = [sample(seed) for seed in range(20)]
    failures = []

    def publish(own):
        try:
            registry = Registry(root, load_backend)
            for artifact in own:
                registry.publish(artifact, "pets", alias="production")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=publish, args=(artifacts[n::4],)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    registry = Registry(root, load_backend)
    assert [version.number for version in registry.list("pets")] == list(range(1, 21))
    moves = registry.history("pets", "production")
    assert all(move.moved_from == before.moved_to for before, move in pairwise(moves))
    found = verify(registry)
    assert (found.versions, found.problems) == (20, [])


def test_a_store_without_conditions_is_refused(registry, root, monkeypatch):
    system = type(fsspec.filesystem("memory"))
    real = system.pipe_file
    monkeypatch.setattr(system, "pipe_file", lambda self, path, value, mode="overwrite": real(self, path, value))
    with pytest.raises(DlhpcError, match="ignores the condition of a conditional write"):
        registry.publish(sample(), "pets")
    assert [key for key in keys(root) if not key.startswith(".")] == []


def test_a_library_that_is_missing_is_named(monkeypatch):
    def missing(scheme, **options):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "filesystem", missing)
    with pytest.raises(MissingExtraError, match=r"pip install 'deep-learning-hpc-demo\[s3\]'"):
        Registry("s3://bucket/models", load_backend).names()


def test_what_a_library_raises_is_told_without_a_traceback(registry, monkeypatch):
    class NoRouteError(Exception):
        """As some library has them."""

    def unreachable(self, path, **options):
        raise NoRouteError("cannot connect\nto host")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "cat_file", unreachable)
    with pytest.raises(DlhpcError, match=r"cannot be used: NoRouteError: cannot connect to host") as caught:
        registry.names()
    assert not isinstance(caught.value, IntegrityError)
    assert caught.value.exit_code == 1


def test_copies_to_and_from_a_folder(filled, tmp_path):
    folder = Registry(tmp_path / "folder", load_backend)
    filled.tag("pets:2", "stage", "gold")
    assert copy(filled, folder, "pets@production", alias="production").digest == sample(1).digest
    assert folder.tags("pets@production") == {"stage": "gold"}
    folder.publish(sample(9), "birds")
    assert copy(folder, filled, "birds").ref == "birds:1"
    assert filled.read("birds") == folder.read("birds")


def test_the_python_face_takes_urls(filled):
    registry = api.Registry(str(filled.root))
    assert [match.version.ref for match in registry.search("name=plants")] == ["plants:1"]
    assert registry.lineage("pets").digest == sample(2).digest
    assert len(registry.events("pets")) == 4


def test_times_are_read_as_each_library_tells_them():
    path = ObjectPath("s3", "bucket/key")
    assert object_store._seconds({"updated": "2026-01-01T00:00:00Z"}, path) == 1767225600.0
    assert object_store._seconds({"created": 5}, path) == 5.0
    with pytest.raises(DlhpcError, match="does not say when"):
        object_store._seconds({"LastModified": ""}, path)


def test_a_folder_is_no_object_store(tmp_path):
    assert isinstance(Registry(tmp_path, load_backend).root, Path)
    with pytest.raises(UsageError, match="unknown scheme 'file'"):
        Registry(f"file://{tmp_path}", load_backend)
