"""Copies of versions are the same versions."""

import pytest

from dlhpc.backends import load_backend
from dlhpc.errors import IntegrityError, UsageError
from dlhpc.registry import blobs
from dlhpc.registry.exchange import copy, open_store
from dlhpc.registry.manifest import WEIGHTS_FILE
from dlhpc.registry.store import Registry
from dlhpc.registry.verification import verify
from dlhpc.weights.file import to_bytes
from tests.registry.samples import sample
from tests.registry.test_signing import generated


@pytest.fixture
def source(tmp_path):
    registry = Registry(tmp_path / "source", load_backend)
    registry.publish(sample(0), "pets", alias="production")
    registry.publish(sample(1), "pets")
    registry.tag("pets:1", "stage", "gold")
    registry.note("pets:1", "stays here")
    return registry


@pytest.fixture
def target(tmp_path):
    return open_store(tmp_path / "target", load_backend)


def test_a_copy_is_the_same_version_with_its_tags(source, target):
    version = copy(source, target, "pets@production", alias="candidate", note="moved house")
    assert (version.ref, version.digest, version.aliases) == ("pets:1", sample(0).digest, ("candidate",))
    assert target.read("pets@candidate") == source.read("pets:1")
    assert target.tags("pets") == {"stage": "gold"}
    assert target.notes("pets") == ()
    assert [move.note for move in target.history("pets", "candidate")] == ["moved house"]
    assert verify(target).problems == []


def test_a_copy_again_changes_nothing(source, target):
    first = copy(source, target, "pets:1", alias="candidate")
    before = {path: path.stat().st_mtime_ns for path in target.root.rglob("*") if "/." not in str(path)}
    assert copy(source, target, "pets@production", alias="candidate") == first
    assert {path: path.stat().st_mtime_ns for path in target.root.rglob("*") if "/." not in str(path)} == before


def test_signatures_travel_and_still_verify(source, target, tmp_path):
    private, public = generated(tmp_path)
    signed = source.sign("pets:1", private, note="reviewed")
    for _ in range(2):
        copy(source, target, "pets:1", alias="production")
        assert target.get("pets@production", require_signature=[public]).digest == sample(0).digest
        (kept,) = target.signatures("pets")
        assert (kept.envelope, kept.key, kept.note) == (signed.envelope, signed.key, "reviewed")
    copy(source, target, "pets:2")
    with pytest.raises(IntegrityError, match="it has no signature"):
        target.get(f"sha256:{sample(1).digest}", require_signature=[public])
    with pytest.raises(IntegrityError, match="the signature 1 to be kept with pets:2 is of another version"):
        target.keep_signature("pets:2", signed)
    assert verify(target).problems == []


def test_a_copy_under_another_name(source, target):
    assert copy(source, target, f"sha256:{sample(1).digest}", name="animals").ref == "animals:1"
    assert target.names() == ("animals",)


def test_a_digest_alone_says_no_name(source, target):
    with pytest.raises(UsageError, match="a digest says no name"):
        copy(source, target, f"sha256:{sample(1).digest}")
    assert not target.root.exists()


def test_what_the_target_holds_is_not_read_from_the_source(source, target):
    copy(source, target, "pets:1")
    for path in source.blobs.rglob("*"):
        if path.is_file():
            path.unlink()
    assert copy(source, target, "pets:1", name="again").ref == "again:1"


def test_damage_in_the_source_is_not_copied(source, target):
    blobs.content_path(source.blobs, sample(0).manifest.files[WEIGHTS_FILE].sha256).write_bytes(b"other")
    with pytest.raises(IntegrityError, match="source"):
        copy(source, target, "pets:1")
    assert not target.root.exists()


def test_damage_in_the_target_is_mended_by_a_copy(source, target):
    copy(source, target, "pets:1")
    blobs.content_path(target.blobs, sample(0).manifest.files[WEIGHTS_FILE].sha256).write_bytes(b"other")
    copy(source, target, "pets:1")
    assert verify(target).problems == []


def test_a_store_that_gives_other_bytes_is_found_out(source, target):
    class Lying(Registry):
        def read(self, ref, *, progress=None):
            manifest, files = super().read(ref)
            return manifest, {name: content[:-1] + b"?" for name, content in files.items()}

    with pytest.raises(IntegrityError, match=r"the source's pets:1: golden.safetensors: sha256 is"):
        copy(Lying(source.root, load_backend), target, "pets:1")
    lying = Lying(target.root, load_backend)
    with pytest.raises(IntegrityError, match=r"the target's pets:1: golden.safetensors: sha256 is"):
        copy(source, lying, "pets:1")


def test_bytes_that_are_not_the_manifests_are_not_published(target):
    artifact = sample(0)
    content = to_bytes(artifact.weights)
    with pytest.raises(IntegrityError, match="was changed after it was made"):
        target.publish_bytes(artifact.manifest_bytes, {**artifact.files, WEIGHTS_FILE: content + b"x"}, "pets")
    with pytest.raises(IntegrityError, match="a manifest that names"):
        target.publish_bytes(artifact.manifest_bytes, {**artifact.files, WEIGHTS_FILE: content, "more": b""}, "pets")
    assert not target.root.exists()


def test_progress_tells_the_bytes_of_files(source, target):
    told = []
    copy(source, target, "pets:1", progress=lambda *step: told.append(step))
    size = sample(0).manifest.files["weights.safetensors"].size
    assert ("writing weights.safetensors", size, size) in told
    assert any(what.startswith("reading weights.safetensors of") and done == size for what, done, _ in told)
