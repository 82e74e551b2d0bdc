"""Many writers, no lock, no database."""

import subprocess
import sys
from itertools import pairwise

from dlhpc.backends import load_backend
from dlhpc.registry.store import Registry
from dlhpc.registry.verification import verify
from tests.registry.samples import sample
from tests.registry.writers import UNMEASURED


def test_eight_writers_on_a_fresh_registry_publish_ten_versions_each(checkout, tmp_path):
    root = tmp_path / "registry"
    arguments = [sys.executable, "-m", "tests.registry.writers", "together", root, "8", "10"]
    done = subprocess.run(arguments, cwd=checkout, env=UNMEASURED, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "8 of 8 writers succeeded", done.stderr
    registry = Registry(root, load_backend)
    versions = registry.list("pets")
    assert [version.number for version in versions] == list(range(1, 81))
    assert {version.digest for version in versions} == {sample(seed).digest for seed in range(80)}
    assert [version.sequence for version in versions] == sorted({version.sequence for version in versions})
    moves = registry.history("pets", "production")
    assert 1 <= len(moves) <= 80
    assert all(move.moved_from == before.moved_to for before, move in pairwise(moves))
    found = verify(registry)
    assert (found.versions, found.labels, found.unused, found.problems) == (80, 80, 0, [])


def test_the_same_version_from_eight_writers_gets_one_label(checkout, tmp_path):
    """Writers race with the same bytes: whoever is second finds the label of the first."""
    code = """
import os, sys
from dlhpc.registry.store import Registry
from tests.registry.samples import sample
from tests.registry.writers import UNMEASURED
from tests.registry.writers import forked
artifacts = [sample(seed) for seed in range(10)]
ready, go = os.pipe()
def publish():
    os.close(go)
    os.read(ready, 1)
    for artifact in artifacts:
        Registry(sys.argv[1], None).publish(artifact, "pets")
children = [forked(publish) for _ in range(8)]
os.close(go)
assert [os.waitpid(child, 0)[1] for child in children] == [0] * 8
"""
    subprocess.run([sys.executable, "-c", code, tmp_path / "registry"], cwd=checkout, env=UNMEASURED, check=True)
    registry = Registry(tmp_path / "registry", load_backend)
    assert len({version.digest for version in registry.list("pets")}) == len(registry.list("pets")) == 10
