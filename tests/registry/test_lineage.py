from dataclasses import replace

import pytest

from dlhpc.backends import load_backend
from dlhpc.registry.lineage import lineage
from dlhpc.registry.manifest import Code
from dlhpc.registry.store import Registry
from tests.registry.samples import sample

CODE = Code(commit="cd" * 20, modified=True)


def descended(seed, *parents, **changes):
    one = sample(seed)
    manifest = one.manifest.model_copy(update={"parents": parents, **changes})
    return replace(one, manifest=manifest, manifest_bytes=manifest.to_bytes())


@pytest.fixture
def store(tmp_path):
    return Registry(tmp_path / "registry", load_backend)


def test_run_data_and_code(store):
    store.publish(descended(3, code=CODE), "pets", run="runs/pets-1", alias="production")
    found = lineage(store, "pets@production")
    assert found.run == sample(3).manifest.run.digest
    assert (found.run_folders, found.seed) == (("runs/pets-1",), 3)
    assert (found.data_source, found.data_fingerprint) == ("synthetic", "ab" * 32)
    assert (found.commit, found.modified) == ("cd" * 20, True)
    assert found.ancestors == ()


def test_what_is_not_known_is_none(store):
    store.publish(sample(0), "pets")
    found = lineage(store, "pets")
    assert (found.run_folders, found.commit, found.modified) == ((), None, None)


def test_ancestors_near_and_far_once_each(store):
    first = sample(0)
    left, right = descended(1, first.digest), descended(2, first.digest, "ab" * 32)
    child = descended(3, left.digest, right.digest)
    for artifact, name in ((first, "pets"), (left, "pets"), (right, "plants"), (child, "pets")):
        store.publish(artifact, name)
    store.publish(first, "animals")
    found = [(each.digest, each.generation, each.refs, each.here) for each in lineage(store, "pets").ancestors]
    assert found == [
        (left.digest, 1, ("pets:2",), True),
        (right.digest, 1, ("plants:1",), True),
        (first.digest, 2, ("animals:1", "pets:1"), True),
        ("ab" * 32, 2, (), False),
    ]
