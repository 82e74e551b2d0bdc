import json
import re
import subprocess

import numpy as np
import pytest

from dlhpc import api
from dlhpc.backends import load_backend
from dlhpc.errors import ConflictError, DlhpcError, IntegrityError, NotFoundError
from dlhpc.registry.artifact import new_artifact
from dlhpc.registry.export import export
from dlhpc.registry.manifest import sha256
from dlhpc.registry.model_folder import export_model, import_folder, read_folder
from dlhpc.registry.store import Registry
from dlhpc.spec.registry import RegistrySpec
from dlhpc.weights.file import read_file, to_bytes
from tests.registry.samples import CLASSES, numpy_backend, sample, sample_run

FILES = ["SHA256SUMS", "config.json", "golden.safetensors", "manifest.json", "model.safetensors", "model_card.md"]


def with_card():
    run = sample_run(registry=RegistrySpec(licence="MIT"))
    facts = {"classes": CLASSES, "metrics": {"accuracy": 0.5}, "data_fingerprint": "ab", "card": "# Pets\n"}
    return new_artifact(run, sample().weights, load_backend=numpy_backend, **facts)


@pytest.fixture
def store(tmp_path):
    store = Registry(tmp_path / "registry", load_backend)
    store.publish(with_card(), "pets")
    return store


@pytest.fixture
def folder(store, tmp_path):
    export_model(store, "pets", tmp_path / "out")
    return tmp_path / "out"


def resum(folder):
    """What somebody does who replaces a file and its sum."""
    names = [path.name for path in folder.iterdir() if path.name not in ("README.md", "SHA256SUMS")]
    sums = [f"{sha256((folder / name).read_bytes())}  {name}\n" for name in sorted(names)]
    (folder / "SHA256SUMS").write_text("".join(sums))


def test_what_is_exported_comes_back_as_the_same_version(store, folder):
    assert sorted(path.name for path in folder.iterdir()) == sorted([*FILES, "README.md"])
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=folder, check=True)
    assert read_file(folder / "model.safetensors").keys() == sample().weights.keys()
    (folder / "README.md").write_text("people edit it")
    (folder / ".gitattributes").write_text("hubs have it")
    version = import_folder(store, folder, "again", alias="new", note="moved in")
    assert (version.ref, version.digest, version.aliases) == ("again:1", store.resolve("pets"), ("new",))
    assert store.get("again").card == "# Pets\n"


def test_what_get_writes_is_imported_too(store, tmp_path):
    digest = export(store, "pets", tmp_path / "raw")
    assert import_folder(store, tmp_path / "raw", "again").digest == digest


def test_the_snippet_of_the_readme_works(store, folder, monkeypatch, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(folder.parent)
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip() in CLASSES
    read_folder(folder, load_backend)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", ["removed", "changed", "emptied", "link"])
def test_damage_is_refused_by_name(store, folder, file, damage, tmp_path):
    path = folder / file
    content = path.read_bytes()
    path.unlink()
    match damage:
        case "changed":
            path.write_bytes(content[:-9] + b"?" + content[-8:])
        case "emptied":
            path.write_bytes(b"")
        case "link":
            (tmp_path / "outside").write_bytes(content)
            path.symlink_to(tmp_path / "outside")
    with pytest.raises(DlhpcError, match=re.escape(file)) as caught:
        import_folder(store, folder, "again")
    # Without a manifest it is no exported folder, and without sums nothing tells what belongs to it.
    assert caught.value.exit_code == (4 if (file, damage) == ("manifest.json", "removed") else 3)
    assert store.names() == ("pets",)


@pytest.mark.parametrize("file", ["model.safetensors", "golden.safetensors", "model_card.md"])
def test_a_file_replaced_with_its_sum_is_not_the_manifests(store, folder, file):
    (folder / file).write_bytes(to_bytes(sample(1).weights))
    resum(folder)
    with pytest.raises(IntegrityError, match=f"{file}: not the file that manifest.json names"):
        import_folder(store, folder, "again")


def test_added_files_are_refused_by_name(store, folder):
    (folder / "more.bin").write_bytes(b"x")
    with pytest.raises(IntegrityError, match=r"more\.bin: no part of the exported version"):
        import_folder(store, folder, "again")
    resum(folder)
    with pytest.raises(IntegrityError, match=r"more\.bin: not the file that manifest\.json names"):
        import_folder(store, folder, "again")


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "a/b", ".hidden", "a\\b", "", "a b"])
def test_no_sum_leads_out_of_the_folder(store, folder, name, tmp_path):
    (tmp_path / "outside").write_bytes(b"")
    with (folder / "SHA256SUMS").open("a") as sums:
        sums.write(f"{sha256(b'')}  {name}\n")
    with pytest.raises(IntegrityError, match=r"SHA256SUMS:6: expected a sha256"):
        import_folder(store, folder, "again")


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "A", "a/b"])
def test_no_manifest_names_a_file_elsewhere(store, folder, name):
    fields = json.loads((folder / "manifest.json").read_bytes())
    fields["files"][name] = {"sha256": sha256(b""), "size": 0}
    (folder / "manifest.json").write_text(json.dumps(fields))
    resum(folder)
    with pytest.raises(IntegrityError, match=r"manifest\.json: not a manifest.*should match pattern"):
        import_folder(store, folder, "again")


def test_a_card_that_is_no_text_is_refused(store, folder):
    fields = json.loads((folder / "manifest.json").read_bytes())
    fields["files"]["model_card.md"] = {"sha256": sha256(b"\xff"), "size": 1}
    (folder / "manifest.json").write_text(json.dumps(fields))
    (folder / "model_card.md").write_bytes(b"\xff")
    resum(folder)
    with pytest.raises(IntegrityError, match=r"model_card\.md: no text in UTF-8"):
        import_folder(store, folder, "again")


def test_nothing_is_overwritten(store, folder):
    with pytest.raises(ConflictError, match="not an empty folder"):
        export_model(store, "pets", folder)


def test_a_folder_that_is_none(store, tmp_path):
    with pytest.raises(NotFoundError, match=r"no exported version: it has no manifest\.json"):
        import_folder(store, tmp_path, "again")


def test_from_python(tmp_path, store):
    registry = api.Registry(store.root)
    digest = registry.export("pets", tmp_path / "there")
    assert registry.import_folder(tmp_path / "there", "again").digest == digest
    images = np.zeros((1, 4, 4, 1), np.uint8)
    np.testing.assert_array_equal(registry.get("again").predictor()(images), registry.get("pets").predictor()(images))
