import dataclasses

import numpy as np
import pytest

from dlhpc.backends import load_backend
from dlhpc.errors import IntegrityError, TrainingError, UsageError
from dlhpc.registry.artifact import load_artifact, new_artifact
from dlhpc.registry.environment import environment
from dlhpc.weights.file import to_bytes
from tests.registry.samples import CLASSES, sample, sample_run


def made(weights, metrics=None):
    return new_artifact(
        sample_run(),
        weights,
        classes=CLASSES,
        metrics=metrics or {},
        data_fingerprint="ab",
        load_backend=load_backend,
        parents=("cd" * 32,),
    )


def test_the_manifest_tells_what_it_was_made_of():
    manifest = made(sample().weights, {"loss": np.float32(0.5)}).manifest
    assert manifest.inputs.shape == (None, 4, 4, 1)
    assert manifest.outputs.shape == (None, 3)
    assert manifest.classes == CLASSES
    assert (manifest.preprocessing.mean, manifest.preprocessing.std) == ((0.25,), (0.75,))
    assert manifest.metrics == {"loss": 0.5}
    assert manifest.data_fingerprint == "ab"
    assert manifest.parents == ("cd" * 32,)
    assert manifest.environment == environment("flax")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("head/bias"), "'head/bias' is missing"),
        (lambda w: w.update(extra=np.zeros(1, np.float32)), "'extra' is unknown"),
        (
            lambda w: w.update({"head/kernel": w["head/kernel"].T}),
            r"'head/kernel' has shape \(3, 5\), expected \(5, 3\)",
        ),
        (lambda w: w.update({"head/bias": np.zeros(3, np.int32)}), "'head/bias' has type int32"),
    ],
)
def test_weights_must_fit_the_model(change, message):
    weights = dict(sample().weights)
    change(weights)
    with pytest.raises(IntegrityError, match=message):
        made(weights)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_metrics_must_be_numbers(value):
    with pytest.raises(TrainingError, match="loss = "):
        made(sample().weights, {"accuracy": 0.5, "loss": value})


def test_loading_checks_the_table_again():
    """Bytes that verify may still be another model's: a manifest made by hand."""
    artifact, other = sample(), dict(sample().weights)
    del other["head/bias"]
    with pytest.raises(IntegrityError, match=r"a:1: weights\.safetensors does not fit .*'head/bias' is missing"):
        load_artifact(artifact.manifest_bytes, {"weights.safetensors": to_bytes(other)}, load_backend, "a:1")


def test_a_later_layout_of_the_specs_keeps_the_digest():
    """The digest is that of the bytes as first written, not of what this dlhpc would write."""
    artifact = sample()
    content = artifact.manifest_bytes.replace(b'"seed":0', b'"seed": 0')
    loaded = load_artifact(content, {"weights.safetensors": to_bytes(artifact.weights)}, load_backend, "a:1")
    assert loaded.manifest == artifact.manifest
    assert loaded.manifest_bytes == content
    assert loaded.digest != artifact.digest


@pytest.mark.parametrize("trained_in", ["flax", "torch"])
def test_it_predicts_in_either_framework(trained_in):
    artifact = sample(backend=trained_in)
    images = np.random.default_rng(0).integers(0, 256, (7, 4, 4, 1), np.uint8)
    own, flax, torch = (artifact.predictor(backend)(images) for backend in (None, "flax", "torch"))
    np.testing.assert_array_equal(own, {"flax": flax, "torch": torch}[trained_in])
    np.testing.assert_allclose(flax, torch, atol=1e-6)
    np.testing.assert_allclose(own.sum(1), 1.0, atol=1e-6)
    assert own.shape == (7, 3)
    assert own.dtype == np.float32


def test_an_unknown_framework_is_refused():
    with pytest.raises(UsageError, match="'caffe' is unknown"):
        sample().predictor("caffe")


def test_artifacts_are_values():
    with pytest.raises(dataclasses.FrozenInstanceError):
        sample().weights = {}
