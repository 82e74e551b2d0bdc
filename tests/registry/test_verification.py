import pytest

from dlhpc.backends import load_backend
from dlhpc.errors import NotFoundError
from dlhpc.registry import blobs
from dlhpc.registry.store import Registry
from dlhpc.registry.verification import verify
from tests.registry.samples import sample


@pytest.fixture
def store(tmp_path):
    store = Registry(tmp_path / "registry", load_backend)
    for seed in range(3):
        store.publish(sample(seed), "pets", alias="production")
    store.publish(sample(0), "animals")
    return store


def test_an_intact_registry(store):
    seen = []
    found = verify(store, seen.append)
    assert (found.versions, found.labels, found.moves, found.unused, found.problems) == (3, 4, 3, 0, [])
    assert found.bytes == sum(path.stat().st_size for path in store.blobs.rglob("*") if path.is_file())
    assert seen[-2:] == ["animals", "pets"]
    assert len(seen) == 5


def test_no_registry(tmp_path):
    with pytest.raises(NotFoundError, match="no model is published"):
        verify(Registry(tmp_path / "none", load_backend))


def test_every_problem_is_told_not_only_the_first(store):
    weights = [entry.sha256 for seed in (0, 1) for entry in sample(seed).manifest.files.values()]
    for digest in weights:
        blobs.content_path(store.blobs, digest).write_bytes(b"damaged")
    (store.versions("pets") / "2.json").write_bytes(b"damaged")
    (store.root / "notes.txt").write_text("mine")
    problems = "\n".join(verify(store).problems)
    for expected in (*weights, "pets/versions/2.json", "notes.txt: unexpected file"):
        assert expected in problems
    assert verify(store).versions == 1


def test_a_label_without_its_manifest(store):
    blobs.content_path(store.manifests, sample(1).digest).unlink()
    (problem,) = verify(store).problems
    assert "pets/versions/2.json: its manifest" in problem


def test_leftovers_are_counted_not_blamed(store):
    blobs.put(store.blobs, b"of a publication that was killed")
    found = verify(store)
    assert (found.unused, found.problems) == (1, [])


def test_a_damaged_marker_is_the_one_problem(store):
    (store.root / "registry.json").write_text("{}")
    (problem,) = verify(store).problems
    assert "registry.json: damaged" in problem


def test_an_unknown_entry_beside_labels_and_aliases(store):
    (store.versions("pets").parent / "tags").mkdir()
    (problem,) = verify(store).problems
    assert problem.endswith("pets/tags: unexpected file in the registry; remove it")
