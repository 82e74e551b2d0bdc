"""Whatever happens to a file of the registry is refused, and the file is named."""

import random
import re
import shutil

import pytest

from dlhpc.backends import load_backend
from dlhpc.errors import IntegrityError
from dlhpc.registry.blobs import content_path
from dlhpc.registry.events import events
from dlhpc.registry.store import Registry
from dlhpc.registry.verification import verify
from tests.registry.samples import sample
from tests.registry.test_signing import generated

FLIPS = 500


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    registry = Registry(folder / "registry", load_backend)
    key, _ = generated(folder)
    registry.publish(sample(0), "pets")
    registry.publish(sample(1), "pets", alias="production")
    registry.set_alias("pets", "canary", "pets:1")
    for ref in ("pets:1", "pets:2"):
        registry.tag(ref, "stage", "gold", note=ref)
        registry.tag(ref, "owner", "us")
        registry.note(ref, f"about {ref}")
        registry.sign(ref, key)
    return registry.root


@pytest.fixture
def store(intact, tmp_path):
    shutil.copytree(intact, tmp_path / "copy")
    return Registry(tmp_path / "copy", load_backend)


def files_of(store):
    """What `get("pets@production")` depends on: marker, move, label, manifest, weights, golden examples."""
    manifest = store.manifest("pets:2")
    return {
        "marker": store.root / "registry.json",
        "move": store.aliases("pets") / "production" / "1.json",
        "label": store.versions("pets") / "2.json",
        "manifest": content_path(store.manifests, sample(1).digest),
        "weights": content_path(store.blobs, manifest.files["weights.safetensors"].sha256),
        "golden": content_path(store.blobs, manifest.files["golden.safetensors"].sha256),
    }


def remarks_of(store, seed):
    """What `tags`, `notes` and `signatures` of a version depend on."""
    folder = content_path(store.annotations, sample(seed).digest)
    return {
        "tag": folder / "tags" / "2.json",
        "note": folder / "notes" / "1.json",
        "signature": folder / "signatures" / "1.json",
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
        "golden": content_path(store.blobs, manifest.files["golden.safetensors"].sha256),
    }


FILES = ["marker", "move", "label", "manifest", "weights", "golden"]
REMARKS = {
    "tag": lambda store: store.tags("pets:2"),
    "note": lambda store: store.notes("pets:2"),
    "signature": lambda store: store.signatures("pets:2"),
}
DAMAGES = {
    "emptied": lambda content: b"",
    "halved": lambda content: content[: len(content) // 2],
    "cut": lambda content: content[:-1],
    "newline": lambda content: content + b"\n",
    "appended": lambda content: content + b"\0" * 4096,
    "zeroed": lambda content: b"\0" * len(content),
    "tail-zeroed": lambda content: content[: len(content) // 2] + b"\0" * (len(content) - len(content) // 2),
}


def refused(store, path, read=lambda store: store.get("pets@production")):
    with pytest.raises(IntegrityError, match=re.escape(str(path))) as caught:
        read(store)
    assert caught.value.exit_code == 3
    assert any(str(path) in problem for problem in verify(store).problems)


def test_flipped_bits(store):
    """Of all bytes that a version, its alias, tags, notes and signatures are made of, each as likely as any other."""
    readers = [(path, lambda: store.get("pets@production")) for path in files_of(store).values()]
    readers += [(path, lambda which=which: REMARKS[which](store)) for which, path in remarks_of(store, 1).items()]
    bytes_of = [(path, position, read) for path, read in readers for position in range(path.stat().st_size)]
    draw = random.Random(0)
    refusals = 0
    for path, position, read in draw.sample(bytes_of, FLIPS):
        content = path.read_bytes()
        flipped = content[position] ^ (1 << draw.randrange(8))
        path.write_bytes(content[:position] + bytes([flipped]) + content[position + 1 :])
        with pytest.raises(IntegrityError, match=re.escape(str(path))) as caught:
            read()
        refusals += caught.value.exit_code == 3
        path.write_bytes(content)
    assert refusals == FLIPS
    assert store.get("pets@production").digest == sample(1).digest
    assert verify(store).problems == []


@pytest.mark.parametrize("which", FILES)
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_damage(store, which, damage):
    path = files_of(store)[which]
    path.write_bytes(damage(path.read_bytes()))
    refused(store, path)


@pytest.mark.parametrize("which", REMARKS)
def test_damaged_remarks(store, which):
    path, other = remarks_of(store, 1)[which], remarks_of(store, 0)[which]
    content = path.read_bytes()
    for damaged in (*(damage(content) for damage in DAMAGES.values()), other.read_bytes()):
        path.write_bytes(damaged)
        refused(store, path, REMARKS[which])
    path.unlink()
    path.mkdir()
    refused(store, path, REMARKS[which])


def test_an_older_change_of_a_tag_removed_leaves_a_gap(store):
    path = remarks_of(store, 1)["tag"].with_name("1.json")
    path.unlink()
    refused(store, path, REMARKS["tag"])


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


def test_what_is_the_writers_own_changes_no_answer(store):
    """Leases and the clock are no part of what was published: whatever happens to them, readers do not look."""
    for path in (store.root / ".clock" / "99999", store.root / ".leases" / "x.1.ab.json", store.root / ".clock" / "x"):
        path.write_bytes(b"\xff" * 10)
    shutil.rmtree(store.root / ".clock")
    shutil.rmtree(store.root / ".leases")
    assert store.get("pets@production").digest == sample(1).digest
    assert verify(store).problems == []
    before = max(event.sequence for event in events(store, "pets"))
    store.note("pets:2", "written after")
    assert events(store, "pets")[-1].sequence == before + 1
