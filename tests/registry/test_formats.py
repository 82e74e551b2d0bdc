"""What an earlier dlhpc published is read for ever, also where nothing can be written."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dlhpc.backends import load_backend
from dlhpc.registry.events import events
from dlhpc.registry.gc import sweep
from dlhpc.registry.manifest import sha256
from dlhpc.registry.store import Registry
from dlhpc.registry.verification import verify
from tests.registry.samples import sample
from tests.registry.writers import later

FIXTURES = sorted(path for path in (Path(__file__).parent / "fixtures").iterdir() if path.is_dir())


@pytest.fixture(params=FIXTURES, ids=lambda path: path.name)
def written(request):
    return request.param


@pytest.fixture
def expected(written):
    return json.loads((written / "expected.json").read_text())


@pytest.fixture
def store(written):
    """The fixture itself, in the checkout: nothing may write to it."""

    def content():
        return {path: path.stat().st_mtime_ns for path in written.rglob("*")}

    before = content()
    yield Registry(written / "registry", load_backend)
    assert content() == before


def test_it_verifies(store, expected):
    found = verify(store)
    assert (found.versions, found.labels, found.problems, found.unused) == (5, 6, [], 0)
    assert found.moves == sum(len(moves) for moves in expected["moves"].values())


def test_its_references_stand_for_what_they_did(store, expected):
    assert {ref: store.resolve(ref) for ref in expected["digests"]} == expected["digests"]
    for digest in expected["digests"].values():
        assert store.resolve(f"sha256:{digest[:10]}") == digest
        assert store.get(f"sha256:{digest}").digest == digest


def test_its_versions_are_listed(store, expected):
    assert store.names() == ("animals", "pets", "plants")
    assert [version.ref for version in store.list()] == ["animals:1", "pets:3", "plants:2"]
    versions = [version for name in store.names() for version in store.list(name)]
    assert {version.digest for version in versions} == set(expected["digests"].values())
    assert all(version.digest == store.resolve(version.ref) for version in versions)
    assert {version.ref: version.aliases for version in versions if version.aliases} == {
        "pets:1": ("production",),
        "pets:2": ("candidate",),
        "plants:1": ("production",),
    }
    assert {version.published_by for version in versions} == {"somebody@somewhere"}
    assert store.newest().ref == "animals:1"
    assert [label.ref for label in store.labels(expected["digests"]["pets:1"])] == ["animals:1", "pets:1"]


def test_its_aliases_tell_where_they_stood(store, expected):
    for ref, moves in expected["moves"].items():
        history = store.history(*ref.split("@"))
        assert [[move.moved_from, move.moved_to, move.note] for move in history] == moves


def test_its_tags_and_notes_are_told(store, expected):
    for ref, tags in expected.get("tags", {"pets:1": {}}).items():
        assert store.tags(ref) == tags
    for ref, notes in expected.get("notes", {"pets:1": []}).items():
        assert [note.text for note in store.notes(ref)] == notes
    runs = {version.ref: version.run for name in store.names() for version in store.list(name)}
    assert runs.items() >= expected.get("runs", {"animals:1": None}).items()
    assert verify(store).remarks == expected.get("remarks", 0)


def test_its_history_is_told_in_order(store):
    found = [(event.kind, event.ref) for event in events(store, "pets") if event.kind in ("published", "alias")]
    assert found == [
        ("published", "pets:1"),
        ("alias", "pets:1"),
        ("published", "pets:2"),
        ("alias", "pets:2"),
        ("published", "pets:3"),
        ("alias", "pets:3"),
        ("alias", "pets:1"),
    ]


def test_its_lineage_is_read(store, expected):
    assert store.manifest("pets:3").parents == (expected["digests"]["pets:1"],)


@pytest.mark.parametrize("backend", ["flax", "torch"])
def test_it_predicts_as_it_did(store, expected, backend):
    images = np.array(expected["images"], np.uint8)
    for ref, probabilities in expected["probabilities"].items():
        given = store.get(ref).predictor(backend)(images)
        np.testing.assert_allclose(given, np.array(probabilities), atol=1e-5)


def test_its_licences_cards_and_golden_examples_are_told(store, expected):
    for ref, licence in expected.get("licences", {"pets:1": None}).items():
        assert store.manifest(ref).licence == licence
    for ref, card in expected.get("cards", {"pets:1": None}).items():
        assert store.card(ref) == store.get(ref).card == card
    for ref in expected["probabilities"]:
        artifact = store.get(ref)
        golden = artifact.golden()
        np.testing.assert_allclose(golden.outputs, artifact.predictor()(golden.inputs), atol=1e-5)
        content = artifact.files.get("golden.safetensors")
        assert (content and sha256(content)) == expected.get("golden", {}).get(ref)


def test_it_can_be_published_to(written, expected, tmp_path):
    shutil.copytree(written / "registry", tmp_path / "registry")
    store = Registry(tmp_path / "registry", load_backend)
    for ref, again in (("pets:1", "pets"), ("pets:3", "pets"), ("plants:1", "plants")):
        assert store.publish(store.get(ref), again) == expected["digests"][ref]
    assert [version.number for version in store.list("pets")] == [1, 2, 3]
    before = max(version.sequence for version in store.list())
    store.publish(sample(), "pets", alias="production", note="from now on")
    assert store.newest().ref == "pets:4"
    assert store.newest().sequence > before
    assert store.history("pets", "production")[-1].moved_from == expected["moves"]["pets@production"][-1][1]
    assert store.resolve("pets:1") == expected["digests"]["pets:1"]
    store.tag("pets:1", "stage", "old")
    assert [event.what for event in events(store, "pets")][-2:] == ["production", "stage"]
    assert sweep(store, grace_s=0, now=later).files == []
    assert verify(store).problems == []


def may_mount():
    # In a mount name space of its own, which ends with the process: nothing of it is seen outside.
    tried = ["unshare", "-m", "true"]
    return shutil.which("unshare") and subprocess.run(tried, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not may_mount(), reason="only root mounts a folder read-only")
def test_it_is_read_on_a_read_only_file_system(written, expected, checkout, tmp_path):
    shutil.copytree(written / "registry", tmp_path / "store")
    reading = f"""
import errno, os
from dlhpc.backends import load_backend
from dlhpc.errors import DlhpcError
from dlhpc.registry.store import Registry
from dlhpc.registry.verification import verify
from tests.registry.samples import sample
store = Registry({str(tmp_path / "store")!r}, load_backend)
assert not verify(store).problems
for ref in {sorted(expected["digests"])!r}:
    store.get(ref)
store.list(), store.list("pets"), store.newest(), store.history("pets", "production")
try:
    store.publish(sample(), "pets")
except DlhpcError as error:
    print(error)
"""
    mount = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && exec "$2" -c "$3"'
    command = ["unshare", "-m", "sh", "-c", mount, "sh", tmp_path / "store", sys.executable, reading]
    done = subprocess.run(command, cwd=checkout, env=os.environ, capture_output=True, text=True, check=True)
    assert "cannot write to the registry: Read-only file system" in done.stdout
