import subprocess

import pytest

from dlhpc.backends import load_backend
from dlhpc.errors import ConflictError, DlhpcError, IntegrityError
from dlhpc.registry import blobs
from dlhpc.registry.export import export
from dlhpc.registry.store import Registry
from dlhpc.weights.file import read_file
from tests.registry.samples import sample


@pytest.fixture
def store(tmp_path):
    store = Registry(tmp_path / "registry", load_backend)
    store.publish(sample(), "pets")
    return store


def test_the_folder_holds_the_verified_bytes(store, tmp_path):
    out = tmp_path / "deep" / "out"
    assert export(store, "pets", out) == sample().digest
    files = ["SHA256SUMS", "golden.safetensors", "manifest.json", "weights.safetensors"]
    assert sorted(path.name for path in out.iterdir()) == files
    assert (out / "manifest.json").read_bytes() == sample().manifest_bytes
    assert read_file(out / "weights.safetensors").keys() == sample().weights.keys()
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=out, check=True)


def test_an_empty_folder_is_filled(store, tmp_path):
    (tmp_path / "out").mkdir()
    export(store, "pets", tmp_path / "out")
    assert (tmp_path / "out" / "manifest.json").exists()


def test_nothing_is_overwritten(store, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("")
    with pytest.raises(ConflictError, match="out: exists and is not an empty folder"):
        export(store, "pets", tmp_path / "out")
    with pytest.raises(ConflictError, match="exists"):
        export(store, "pets", tmp_path / "out" / "mine")


def test_damage_leaves_no_folder(store, tmp_path):
    digest = sample().manifest.files["weights.safetensors"].sha256
    blobs.content_path(store.blobs, digest).write_bytes(b"x")
    with pytest.raises(IntegrityError, match=digest):
        export(store, "pets", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["registry"]


def test_a_place_that_cannot_be_written(store, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DlhpcError, match="cannot be written"):
        export(store, "pets", tmp_path / "file" / "out")
