"""What becomes a version: folders of runs, and somebody else's weights."""

import numpy as np
import pytest

from dlhpc import api
from dlhpc.data.sources import open_dataset
from dlhpc.errors import ConfigError, NotFoundError, UsageError
from dlhpc.publication import read_card
from dlhpc.spec.data import DigitsSpec
from dlhpc.spec.model import MLPSpec
from dlhpc.spec.registry import RegistrySpec
from dlhpc.spec.run import RunSpec
from dlhpc.training.run_folder import write_result, write_run
from dlhpc.weights.file import write_file
from dlhpc.weights.init import initial_weights
from dlhpc.weights.layout import layout
from dlhpc.weights.table import param_table
from tests.registry.samples import sample, sample_run

RESULT = {"digest": sample().digest, "registry": None}


@pytest.fixture
def registry(tmp_path):
    return api.Registry(tmp_path / "registry")


@pytest.fixture
def run_folder(tmp_path):
    (tmp_path / "run").mkdir()
    write_run(tmp_path / "run", sample_run())
    return tmp_path / "run"


def test_a_run_that_goes_on_is_not_published(registry, run_folder):
    with pytest.raises(UsageError, match=r"run: this run has not finished; go on with: dlhpc train --resume"):
        registry.publish_folder(run_folder, "pets")


def test_a_run_that_kept_nothing(registry, run_folder):
    write_result(run_folder, RESULT)
    with pytest.raises(NotFoundError, match="keeps no model"):
        registry.publish_folder(run_folder, "pets")


def test_what_a_run_published_is_taken_from_there(registry, run_folder, tmp_path):
    elsewhere = api.Registry(tmp_path / "elsewhere")
    elsewhere.publish(sample(), "pets")
    write_result(run_folder, {**RESULT, "registry": str(elsewhere.root)})
    version = registry.publish_folder(run_folder, "cats", alias="best", note="why")
    assert (version.digest, version.run, version.aliases) == (sample().digest, str(run_folder), ("best",))


def test_an_exported_folder_is_published(registry, tmp_path):
    registry.publish(sample(), "pets")
    registry.export("pets", tmp_path / "out")
    assert registry.publish_folder(tmp_path / "out", "cats").digest == sample().digest


def test_weights_of_others_say_nothing_of_their_data(registry, tmp_path):
    run = sample_run(backend="torch")
    weights = sample().weights
    write_file(tmp_path / "w.safetensors", layout("torch", param_table(run.model)).to_framework(weights))
    version = registry.import_weights(
        tmp_path / "w.safetensors", run, "theirs", naming="torch", alias="new", note="why"
    )
    artifact = registry.get("theirs@new")
    assert (version.ref, artifact.digest) == ("theirs:1", version.digest)
    manifest = artifact.manifest
    assert (manifest.metrics, manifest.data_fingerprint, manifest.parents, manifest.run) == ({}, None, (), run)
    assert artifact.classes == ("0", "1", "2")
    np.testing.assert_array_equal(artifact.weights["head/kernel"], weights["head/kernel"])
    np.testing.assert_allclose(artifact.golden().outputs, sample().golden().outputs, atol=1e-6)
    assert registry.lineage("theirs").data_fingerprint is None
    assert [match.version.ref for match in registry.search("data_fingerprint=null")] == ["theirs:1"]


def test_weights_that_were_trained_on_the_runs_data(registry, tmp_path):
    run = RunSpec(data=DigitsSpec(), model=MLPSpec(hidden_sizes=(2,)))
    dataset = open_dataset(run.data, run.model)
    resolved = api.resolve(run, dataset)
    write_file(tmp_path / "w.safetensors", initial_weights(param_table(resolved.model), 0))
    registry.import_weights(tmp_path / "w.safetensors", run, "theirs", trained_on_data=True)
    manifest = registry.manifest("theirs")
    assert (manifest.data_fingerprint, manifest.classes) == (dataset.info.fingerprint, dataset.info.classes)
    assert manifest.run == resolved
    with pytest.raises(ConfigError, match=r"(?s)model\.input_shape: weights alone.*model\.num_classes: weights alone"):
        registry.import_weights(tmp_path / "w.safetensors", run, "theirs")


def test_a_card_that_cannot_be_read_is_told_before_training(tmp_path):
    run = RunSpec(registry=RegistrySpec(card=tmp_path / "card.md"))
    with pytest.raises(ConfigError, match=r"registry\.card: .*card\.md: No such file"):
        read_card(run)
    with pytest.raises(ConfigError, match=r"registry\.card"):
        api.train(run)
    (tmp_path / "card.md").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="no text in UTF-8"):
        read_card(run)
    (tmp_path / "card.md").write_text("# Ähre\n", encoding="utf-8")
    assert read_card(run) == "# Ähre\n"
    assert read_card(RunSpec()) is None


@pytest.mark.parametrize("licence", ["MIT", "Apache-2.0 OR MIT", "(MIT AND LicenseRef-ours)", "GPL-2.0-or-later"])
def test_licences(licence):
    assert sample(registry=RegistrySpec(licence=licence)).manifest.licence == licence


@pytest.mark.parametrize("licence", ["", " MIT", "MIT\n", "my own: \u00fc", "x" * 201])
def test_no_licences(licence):
    with pytest.raises(ValueError, match="licence"):
        RegistrySpec(licence=licence)
