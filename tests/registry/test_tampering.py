"""Whatever happens to a file of the registry is refused, and the file is named."""

import random
import re
import shutil

import pytest

from dlhpc.backends import load_backend
from dlhpc.errors import IntegrityError
from dlhpc.registry.blobs import content_path
from dlhpc.registry.store import Registry
from dlhpc.registry.verification import verify
from tests.registry.samples import sample

FLIPS_PER_FILE = 40


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    registry = Registry(tmp_path_factory.mktemp("store") / "registry", load_backend)
    registry.publish(sample(0), "pets")
    registry.publish(sample(1), "pets", alias="production")
    registry.set_alias("pets", "canary", "pets:1")
    return registry.root


@pytest.fixture
def store(intact, tmp_path):
    shutil.copytree(intact, tmp_path / "copy")
    return Registry(tmp_path / "copy", load_backend)


def files_of(store):
    """What `get("pets@production")` depends on: marker, move, label, manifest, weights."""
    manifest = store.manifest("pets:2")
    return {
        "marker": store.root / "registry.json",
        "move": store.aliases("pets") / "production" / "1.json",
        "label": store.versions("pets") / "2.json",
        "manifest": content_path(store.manifests, sample(1).digest),
        "weights": content_path(store.blobs, manifest.files["weights.safetensors"].sha256),
    }


def others_of(store):
    """The same files of the other version."""
    manifest = store.manifest("pets:1")
    return {
        "marker": store.versions("pets") / "1.json",
        "move": store.aliases("pets") / "canary" / "1.json",
        "label": store.versions("pets") / "1.json",
        "manifest": content_path(store.manifests, sample(0).digest),
        "weights": content_path(store.blobs, manifest.files["weights.safetensors"].sha256),
    }


FILES = ["marker", "move", "label", "manifest", "weights"]


def refused(store, path):
    with pytest.raises(IntegrityError, match=re.escape(str(path))) as caught:
        store.get("pets@production")
    assert caught.value.exit_code == 3
    assert any(str(path) in problem for problem in verify(store).problems)


@pytest.mark.parametrize("which", FILES)
def test_flipped_bits(store, which):
    path = files_of(store)[which]
    content = path.read_bytes()
    draw = random.Random(which)
    for _ in range(FLIPS_PER_FILE):
        position, bit = draw.randrange(len(content)), draw.randrange(8)
        path.write_bytes(content[:position] + bytes([content[position] ^ (1 << bit)]) + content[position + 1 :])
        with pytest.raises(IntegrityError, match=re.escape(str(path))):
            store.get("pets@production")
    path.write_bytes(content)
    assert store.get("pets@production").digest == sample(1).digest


@pytest.mark.parametrize("which", FILES)
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        lambda content: content + b"\n",
        lambda content: content + b"\0" * 4096,
        lambda content: b"\0" * len(content),
        lambda content: content[:100] + b"\0" * (len(content) - 100) if len(content) > 100 else b"\0" * len(content),
    ],
    ids=["emptied", "halved", "cut", "newline", "appended", "zeroed", "tail-zeroed"],
)
def test_damage(store, which, damage):
    path = files_of(store)[which]
    path.write_bytes(damage(path.read_bytes()))
    refused(store, path)


@pytest.mark.parametrize("which", FILES)
def test_swapped_with_another_versions(store, which):
    path, other = files_of(store)[which], others_of(store)[which]
    path.write_bytes(other.read_bytes())
    refused(store, path)


@pytest.mark.parametrize("which", ["marker", "label", "manifest", "weights"])
def test_removed(store, which):
    path = files_of(store)[which]
    path.unlink()
    refused(store, path)


def test_an_older_label_removed_leaves_a_gap(store):
    path = store.versions("pets") / "1.json"
    path.unlink()
    refused(store, path)


@pytest.mark.parametrize(
    "name", ["versions/extra", "versions/2.json.bak", "aliases/production/x.json", "aliases/production/1"]
)
def test_added(store, name):
    path = store.versions("pets").parent / name
    path.write_text("{}")
    refused(store, path)


def test_a_file_in_the_place_of_an_alias(store):
    path = store.aliases("pets") / "staging"
    path.write_text("")
    with pytest.raises(IntegrityError, match=re.escape(str(path))):
        store.list()
    assert any(str(path) in problem for problem in verify(store).problems)


def test_a_label_of_another_name(store):
    store.publish(sample(7), "plants")
    path = store.versions("plants") / "1.json"
    shutil.copy(store.versions("pets") / "1.json", path)
    with pytest.raises(IntegrityError, match=re.escape(f"{path}: belongs to 'pets': files were swapped")):
        store.get("plants")


def test_a_marker_that_cannot_be_read(store):
    path = store.root / "registry.json"
    path.unlink()
    path.mkdir()
    refused(store, path)


def test_a_label_that_stands_for_another_version_than_its_alias_says(store):
    """Whole records, properly sealed, but no longer of one registry."""
    path = store.aliases("pets") / "production" / "1.json"
    other = Registry(store.root.parent / "other", load_backend)
    other.publish(sample(5), "pets")
    other.publish(sample(6), "pets", alias="production")
    shutil.copy(other.aliases("pets") / "production" / "1.json", path)
    refused(store, path)


def test_a_broken_chain_of_moves_is_noticed(store):
    store.set_alias("pets", "production", "pets:1")
    store.set_alias("pets", "production", "pets:2")
    folder = store.aliases("pets") / "production"
    forged = Registry(store.root.parent / "forged", load_backend)
    forged.publish(sample(0), "pets", alias="production", note="never happened")
    shutil.copy(forged.aliases("pets") / "production" / "1.json", folder / "1.json")
    with pytest.raises(IntegrityError, match=r"2\.json: does not follow from the record before it"):
        store.history("pets", "production")
    assert any("does not follow" in problem for problem in verify(store).problems)
