"""`dlhpc registry export`, `import`, `publish` and `fsck`."""

import json

import pytest

from dlhpc.backends import load_backend
from dlhpc.cli.main import main
from dlhpc.registry.store import Registry
from dlhpc.spec.registry import RegistrySpec
from dlhpc.weights.file import write_file
from dlhpc.weights.layout import layout
from dlhpc.weights.table import param_table
from tests.registry.samples import sample, sample_run

CONFIG = """
model: {name: FlaxMLP, input_shape: [4, 4, 1], num_classes: 3, hidden_sizes: [5]}
data: {source: synthetic, image_shape: [4, 4, 1], num_classes: 3, num_examples: 200, mean: [0.25], std: [0.75]}
"""


@pytest.fixture
def store(tmp_path):
    store = Registry(tmp_path / "registry", load_backend)
    store.publish(sample(registry=RegistrySpec(licence="MIT")), "pets")
    return store


@pytest.fixture
def dlhpc(capsys, store):
    def run(*arguments, status=0):
        assert main(["registry", *map(str, arguments)]) == status
        return capsys.readouterr()

    return run


def test_out_and_in_again(store, dlhpc):
    said = json.loads(dlhpc("export", "pets", "out", "--json").out)
    assert said["digest"] == store.resolve("pets")
    assert {"README.md", "config.json", "model.safetensors"} <= set(said["files"])
    assert "README.md" in dlhpc("export", "pets", "other").out
    assert dlhpc("import", "out", "--name", "cats", "--alias", "new").out.startswith("out is cats:1, cats@new (sha256:")
    found = json.loads(dlhpc("publish", "out", "--name", "dogs", "--note", "why", "--json").out)
    assert (found["ref"], found["digest"], found["source"]) == ("dogs:1", said["digest"], "out")
    shown = dlhpc("show", "dogs").out
    assert "licence" in shown
    assert "MIT" in shown


def test_a_state_dict_of_torch_with_a_map(store, dlhpc, tmp_path):
    state = layout("torch", param_table(sample_run().model)).to_framework(sample().weights)
    state["out.weight"] = state.pop("head.weight")
    write_file(tmp_path / "theirs.safetensors", state)
    (tmp_path / "run.yaml").write_text(CONFIG)
    (tmp_path / "names.yaml").write_text("out.weight: head/kernel\n")
    words = ["import", "theirs.safetensors", "--config", "run.yaml", "--name", "theirs", "--layout", "torch"]
    lost = dlhpc(*words, status=2).err
    assert "'out.weight' (3, 5) is left over" in lost
    assert "'head.weight' is missing, expected (3, 5)" in lost
    dlhpc(*words, "--map", "names.yaml", "--backend", "torch", "--set", "registry.licence=MIT")
    manifest = store.manifest("theirs")
    assert (manifest.run.backend, manifest.licence, manifest.data_fingerprint) == ("torch", "MIT", None)
    assert manifest.files["weights.safetensors"] == sample().manifest.files["weights.safetensors"]
    assert "(not known: imported weights)" in dlhpc("show", "theirs").out
    assert json.loads(dlhpc("show", "theirs", "--json").out)["card"] is None


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["import", "x.safetensors", "--name", "a"], 2, "give --config"),
        (["import", "x.safetensors", "--name", "a", "--config", "run.yaml"], 4, "x.safetensors: no such file"),
        (["import", ".", "--name", "a", "--layout", "torch"], 2, ". is a folder"),
        (["import", ".", "--name", "a"], 4, "no exported version"),
        (["publish", ".", "--name", "a"], 4, "no exported version"),
        (["export", "none", "out"], 4, "no model 'none'"),
        (["import", "x.safetensors"], 2, "--name"),
    ],
)
def test_mistakes_are_explained(dlhpc, tmp_path, words, status, message):
    (tmp_path / "run.yaml").write_text(CONFIG)
    assert message in dlhpc(*words, status=status).err


def test_fsck_is_verify_of_everything(store, dlhpc):
    assert dlhpc("fsck").out == dlhpc("verify").out
    found = json.loads(dlhpc("fsck", "--json").out)
    assert (found["versions"], found["problems"]) == (1, [])
    (store.versions("pets") / "1.json").write_bytes(b"damaged")
    assert "pets/versions/1.json: damaged" in dlhpc("fsck", status=3).err
