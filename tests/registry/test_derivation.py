"""Derived files: compared before they are kept, verified when they are read, and bound to one version."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from dlhpc import api
from dlhpc.backends import load_backend
from dlhpc.data.sources import open_dataset
from dlhpc.errors import DlhpcError, IntegrityError, MissingExtraError, NotFoundError, UsageError
from dlhpc.registry import derivation
from dlhpc.registry.artifact import new_artifact
from dlhpc.registry.blobs import content_path, digests
from dlhpc.registry.derived_record import DerivedRecord
from dlhpc.registry.environment import toolchain
from dlhpc.registry.manifest import WEIGHTS_FILE, sha256
from dlhpc.registry.remarks import ledger
from dlhpc.registry.validation import accuracies
from dlhpc.registry.verification import verify
from dlhpc.spec.data import SplitSpec
from dlhpc.weights.init import initial_weights
from dlhpc.weights.table import param_table
from tests.registry.samples import sample, sample_run
from tests.twins.networks import difference


@pytest.fixture
def store(tmp_path: Any) -> api.Registry:
    registry = api.Registry(tmp_path / "registry")
    registry.publish(sample(0), "pets")
    registry.publish(sample(1), "pets")
    return registry


def with_its_data(store: api.Registry, **changes: Any) -> str:
    """A version whose data is there; its digest."""
    run = sample_run(**changes)
    info = open_dataset(run.data, run.model).info
    weights = {
        name: array * 3 + np.float32(0.3) * np.arange(array.size, dtype=np.float32).reshape(array.shape) / array.size
        for name, array in initial_weights(param_table(run.model), 5).items()
    }
    artifact = new_artifact(
        run, weights, classes=info.classes, metrics={}, data_fingerprint=info.fingerprint, load_backend=load_backend
    )
    return store.publish(artifact, "known")


def test_a_file_is_kept_with_its_version_and_nothing_else(store: api.Registry) -> None:
    record = store.derive("pets:1", "onnx")
    assert (record.version, record.number, record.derivation, record.backend) == (sample(0).digest, 1, "onnx", "flax")
    content = store.derived_file("pets:1", "onnx")
    assert (sha256(content), len(content)) == (record.file.sha256, record.file.size)
    assert record.parity.examples == 8
    assert 0 <= record.parity.max_absolute <= record.parity.max_relative <= record.parity.tolerance == 1e-5
    assert record.facts["opset"] == "20"
    assert record.toolchain == toolchain("jax", "jaxlib", "flax", "onnx", "onnxruntime")
    assert (record.accuracy, record.accuracy_unknown) == (None, "")
    assert store.derived(f"sha256:{sample(0).digest}") == (record,)
    assert store.derived("pets:2") == ()
    assert verify(store).problems == []


def test_the_same_again_is_the_record_that_is_there(store: api.Registry) -> None:
    first = store.derive("pets", "onnx")
    assert store.derive("pets", "onnx", backend="flax", tolerance=1e-5) == first
    assert store.derived("pets") == (first,)
    with patch.object(derivation, "toolchain", lambda *names: {**toolchain(*names), "onnx": "0.0.1"}):
        later = store.derive("pets", "onnx")
    assert (later.number, later.toolchain["onnx"], later.file) == (2, "0.0.1", first.file)
    stricter = store.derive("pets", "onnx", tolerance=5e-6)
    assert (stricter.number, stricter.parity.tolerance) == (3, 5e-6)


def test_a_file_that_answers_otherwise_is_refused_and_leaves_nothing(store: api.Registry) -> None:
    before = list(digests(store.blobs))
    with pytest.raises(DlhpcError, match=r"pets as int8 by flax: answers differ by .* tolerance of 1e-06: nothing was"):
        store.derive("pets", "int8", tolerance=1e-6)
    assert store.derived("pets") == ()
    assert list(digests(store.blobs)) == before


@pytest.mark.parametrize("answer", [float("nan"), 0.5])
def test_wrong_answers_and_answers_that_are_no_numbers_are_refused(answer: float) -> None:
    artifact = sample(0)
    with pytest.raises(DlhpcError, match="nothing was recorded"):
        derivation._parity(artifact, lambda inputs: np.full((len(inputs), 3), answer, np.float32), 1e-3, "it")
    with pytest.raises(DlhpcError, match="nothing was recorded"):
        derivation._parity(artifact, lambda inputs: artifact.predictor()(inputs)[:, :2], 1e-3, "it")


def test_a_damaged_file_is_named_and_made_again(store: api.Registry) -> None:
    record = store.derive("pets", "onnx")
    path = content_path(store.blobs, record.file.sha256)
    whole = path.read_bytes()
    for damaged in (whole[:-1], b"\0" * len(whole), None):
        path.unlink()
        if damaged is not None:
            path.write_bytes(damaged)
        with pytest.raises(IntegrityError, match=record.file.sha256):
            store.derived_file("pets", "onnx")
        assert len(verify(store).problems) == 1
        assert store.derive("pets", "onnx") == record
        assert store.derived_file("pets", "onnx") == whole


def test_a_sweep_keeps_what_belongs_to_a_published_version(store: api.Registry) -> None:
    record = store.derive("pets", "onnx")
    assert store.gc(grace_s=0).files == []
    assert sha256(store.derived_file("pets", "onnx")) == record.file.sha256


def test_events_tell_of_it(store: api.Registry) -> None:
    record = store.derive("pets", "onnx")
    told = store.events("pets")[-1]
    assert (told.kind, told.what, told.after, told.ref) == ("derived", "onnx by flax", record.file.sha256, "pets:2")


def test_int8_predicts_in_both_frameworks_as_its_record_says(store: api.Registry) -> None:
    record = store.derive("pets", "int8")
    weights = store.manifest("pets").files[WEIGHTS_FILE]
    content_path(store.blobs, weights.sha256).unlink()  # the file suffices
    small = store.quantised("pets")
    assert small.digest == sample(1).digest
    inputs = sample(1).golden().inputs
    expected, answers = sample(1).predictor()(inputs), small.predictor("flax")(inputs)
    assert difference(small.predictor("torch")(inputs), answers) < 1e-5
    assert difference(answers, expected) == pytest.approx(record.parity.max_relative)
    assert 0 < record.parity.max_relative < 0.05
    np.testing.assert_array_equal(small.golden().inputs, inputs)


def test_int8_accuracy_is_that_of_the_validation_part(store: api.Registry) -> None:
    digest = with_its_data(store)
    record = store.derive("known", "int8")
    accuracy = record.accuracy
    assert accuracy is not None
    manifest = store.manifest("known")
    dataset = open_dataset(manifest.run.data, manifest.run.model)
    assert accuracy.examples == dataset.info.sizes["validation"] != dataset.info.sizes["test"]
    assert accuracy.change == accuracy.after - accuracy.before
    quantised, whole = (artifact.predictor("torch") for artifact in (store.quantised("known"), store.get("known")))
    assert accuracies(manifest, [whole, quantised]) == (accuracy.examples, [accuracy.before, accuracy.after])
    always = [lambda inputs, k=k: np.eye(3, dtype=np.float32)[np.full(len(inputs), k)] for k in range(3)]
    assert sum(accuracies(manifest, always)[1]) == pytest.approx(1)
    assert store.derive(f"sha256:{digest}", "int8") == record


def test_int8_says_why_it_does_not_know_the_accuracy(store: api.Registry) -> None:
    record = store.derive("pets", "int8")
    assert record.accuracy is None
    assert record.accuracy_unknown == "the data has changed since the version was trained"
    assert store.derive("pets", "int8") == record
    assert store.derived("pets") == (record,)
    data = sample_run().data.model_copy(update={"split": SplitSpec(validation=0.0)})
    with_its_data(store, data=data)
    assert store.derive("known", "int8").accuracy_unknown == "the data has no validation part"


def test_what_is_not_there_is_told_with_what_is(store: api.Registry) -> None:
    with pytest.raises(NotFoundError, match=r"pets has no onnx \(there is: nothing\); make it: dlhpc registry derive"):
        store.derived_file("pets", "onnx")
    store.derive("pets", "onnx")
    with pytest.raises(NotFoundError, match=r"no onnx by torch \(there is: onnx by flax\)"):
        store.derived_file("pets", "onnx", backend="torch")
    with pytest.raises(NotFoundError, match="no int8"):
        store.quantised("pets")


@pytest.mark.parametrize("tolerance", [0.0, -1.0, 1.0, float("nan")])
def test_a_tolerance_that_is_none_is_refused(store: api.Registry, tolerance: float) -> None:
    with pytest.raises(UsageError, match="tolerance"):
        store.derive("pets", "onnx", tolerance=tolerance)


def test_a_framework_that_does_not_write_the_format(store: api.Registry) -> None:
    with pytest.raises(UsageError, match="flax writes onnx and stablehlo, not torch-export"):
        store.derive("pets", "torch-export", backend="flax")


def test_without_the_extra_it_says_what_to_install_and_what_is_there_can_be_read(
    store: api.Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = store.derive("pets:1", "onnx")
    monkeypatch.setattr("dlhpc.engines.onnx_graph.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"demo\[onnx\]"):
        store.derive("pets:2", "onnx")
    assert sha256(store.derived_file("pets:1", "onnx")) == record.file.sha256


def test_a_record_that_was_changed_is_noticed(store: api.Registry) -> None:
    store.derive("pets", "onnx")
    path = ledger(store.annotations, sample(1).digest, DerivedRecord).folder / "1.json"
    path.write_bytes(path.read_bytes().replace(b'"opset":"20"', b'"opset":"21"'))
    with pytest.raises(IntegrityError, match=r"derived/1\.json: damaged"):
        store.derived_file("pets", "onnx")
