"""kill -9 in the middle of publishing leaves nothing that fails verification, and a registry that is usable at once."""

import subprocess
import sys

import pytest

from dlhpc.backends import load_backend
from dlhpc.errors import NotFoundError
from dlhpc.registry.store import Registry
from dlhpc.registry.verification import verify
from tests.registry.samples import sample
from tests.registry.writers import UNMEASURED

RANDOM_KILLS = 60


@pytest.fixture
def publish_and_kill(checkout, tmp_path):
    def run(*arguments):
        command = [sys.executable, "-m", "tests.registry.writers", arguments[0], tmp_path, *arguments[1:]]
        return subprocess.run(
            command, cwd=checkout, env=UNMEASURED, capture_output=True, text=True, check=True
        ).stdout.strip()

    return run


def usable(registry):
    """No version fails, labels are contiguous, and the next publication works."""
    found = verify(registry)
    assert found.problems == []
    for name in registry.names():
        versions = registry.list(name)
        assert [version.number for version in versions] == list(range(1, len(versions) + 1))
        for version in versions:
            assert registry.get(version.ref).digest == version.digest
    digest = registry.publish(sample(999), "next", alias="production")
    assert registry.get("next@production").digest == registry.newest().digest == digest
    return found


def test_killed_at_every_step_of_a_publication(publish_and_kill, tmp_path):
    said = publish_and_kill("killed-at-each-step")
    kills = int(said.split()[0])
    assert said == f"{kills} kills, then status 0"
    assert kills > 20
    labels, aliased = [], []
    for step in range(1, kills + 2):
        registry = Registry(tmp_path / str(step), load_backend)
        labels.append(len(registry.list("pets")))
        aliased.append(registry.resolve("pets@production"))
        usable(registry)
    # The version appears at one step and stays; then the alias moves at one step and stays.
    assert (labels[0], labels[-1]) == (1, 2)
    assert labels == sorted(labels)
    moved = [digest == sample(1).digest for digest in aliased]
    assert (moved[0], moved[-1]) == (False, True)
    assert moved == sorted(moved)
    assert labels.index(2) < moved.index(True)


def test_killed_at_random_moments(publish_and_kill, tmp_path):
    said = publish_and_kill("killed-at-random", str(RANDOM_KILLS), "7")
    assert said == f"{RANDOM_KILLS} killed"
    found = usable(Registry(tmp_path, load_backend))
    assert found.versions > 0


def test_a_first_writer_that_died_before_the_registry_was_one(tmp_path):
    registry = Registry(tmp_path / "registry", load_backend)
    registry.root.mkdir()
    (registry.root / ".registry.json.1.abcd.tmp").write_bytes(b"{")
    with pytest.raises(NotFoundError, match="no model is published"):
        registry.newest()
    registry.publish(sample(), "pets")
    usable(registry)
