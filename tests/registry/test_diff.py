import json
from dataclasses import replace

import numpy as np
import pytest

from dlhpc.backends import load_backend
from dlhpc.errors import IntegrityError
from dlhpc.registry.artifact import new_artifact
from dlhpc.registry.blobs import content_path
from dlhpc.registry.diff import ABSENT, diff, flatten
from dlhpc.registry.store import Registry
from dlhpc.spec.model import MLPSpec
from dlhpc.spec.optimizer import LionSpec
from tests.registry.samples import CLASSES, sample, sample_run


@pytest.fixture
def store(tmp_path):
    return Registry(tmp_path / "registry", load_backend)


def made(weights, metrics, **changes):
    fixed = {"data_fingerprint": "ab" * 32, "classes": CLASSES, "load_backend": load_backend}
    return new_artifact(sample_run(**changes), weights, metrics=metrics, **fixed)


def test_only_what_differs_is_told(store):
    store.publish(sample(0), "pets")
    store.publish(sample(7), "pets")
    found = diff(store, "pets:1", "pets:2")
    assert (found.a, found.b) == (sample(0).digest, sample(7).digest)
    assert [(change.key, change.a, change.b) for change in found.spec] == [("seed", 0, 7)]
    assert [change.key for change in found.files] == ["golden.safetensors", "weights.safetensors"]
    assert (found.environment, found.origin) == ((), ())
    metrics = {metric.name: (metric.a, metric.b, metric.difference) for metric in found.metrics}
    assert metrics == {"accuracy": (0.5, 0.507, pytest.approx(0.007)), "loss": (1.0, 1.0, 0.0)}


def test_tensor_by_tensor(store):
    weights = sample(0).weights
    moved = {**weights, "head/kernel": weights["head/kernel"] + np.float32(0.5), "head/bias": np.float32([3, 0, -4])}
    store.publish(made(weights, {}), "pets")
    store.publish(made(moved, {}), "pets")
    tensors = {tensor.name: tensor for tensor in diff(store, "pets:1", "pets:2").tensors}
    assert tensors.keys() == weights.keys()
    kernel = tensors["head/kernel"]
    norm = np.linalg.norm(weights["head/kernel"].astype(np.float64))
    assert kernel.shape_a == kernel.shape_b == (5, 3)
    assert kernel.norm_a == pytest.approx(norm)
    assert kernel.difference == pytest.approx(0.5 * 15**0.5, rel=1e-6)
    assert kernel.relative == pytest.approx(0.5 * 15**0.5 / norm, rel=1e-6)
    assert kernel.largest == pytest.approx(0.5, abs=1e-6)
    bias = tensors["head/bias"]
    assert (bias.norm_a, bias.norm_b, bias.difference, bias.relative, bias.largest) == (0, 5, 5, None, 4)
    same = tensors["dense_0/kernel"]
    assert (same.difference, same.relative, same.largest) == (0, 0, 0)


def test_another_architecture(store):
    model = MLPSpec(input_shape=(4, 4, 1), num_classes=3, hidden_sizes=(6, 5))
    store.publish(sample(0), "pets")
    store.publish(sample(0, model=model, optimizer=LionSpec()), "pets")
    found = diff(store, "pets:1", "pets:2")
    changes = {change.key: (change.a, change.b) for change in found.spec}
    assert changes["model.hidden_sizes"] == ([5], [6, 5])
    assert changes["optimizer.name"] == ("adamw", "lion")
    assert changes["optimizer.eps"] == (1e-8, ABSENT)
    tensors = {tensor.name: tensor for tensor in found.tensors}
    assert (tensors["dense_1/bias"].shape_a, tensors["dense_1/bias"].norm_a) == (None, None)
    reshaped = tensors["dense_0/kernel"]
    assert (reshaped.shape_a, reshaped.shape_b) == ((16, 5), (16, 6))
    assert reshaped.difference is reshaped.relative is reshaped.largest is None
    assert reshaped.norm_a > 0


def test_origin_and_environment(store):
    one = sample(0)
    changes = {"environment": {**one.manifest.environment, "jax": "0.1", "new": "1"}, "parents": ("cd" * 32,)}
    manifest = one.manifest.model_copy(update={**changes, "data_fingerprint": "cd" * 32})
    store.publish(one, "pets")
    store.publish(replace(one, manifest=manifest, manifest_bytes=manifest.to_bytes()), "pets")
    found = diff(store, "pets:1", "pets:2")
    assert {change.key for change in found.origin} == {"data_fingerprint", "parents"}
    assert {change.key: change.b for change in found.environment} == {"jax": "0.1", "new": "1"}
    assert found.files == ()


def test_metrics_that_only_one_has(store):
    store.publish(made(sample(0).weights, {"accuracy": 0.5}), "pets")
    store.publish(made(sample(0).weights, {"f1": 0.5}), "pets")
    found = [(metric.name, metric.a, metric.b, metric.difference) for metric in diff(store, "pets:1", "pets:2").metrics]
    assert found == [("accuracy", 0.5, None, None), ("f1", None, 0.5, None)]


def test_a_version_and_itself(store):
    store.publish(sample(0), "pets", alias="production")
    found = diff(store, "pets", "pets@production")
    assert (found.spec, found.files, found.origin, found.environment) == ((), (), (), ())
    assert {tensor.difference for tensor in found.tensors} == {0.0}


def test_without_weights_no_weights_are_read(store):
    for seed in (0, 1):
        store.publish(sample(seed), "pets")
        content_path(store.blobs, sample(seed).manifest.files["weights.safetensors"].sha256).write_bytes(b"damaged")
    assert diff(store, "pets:1", "pets:2", weights=False).tensors is None
    with pytest.raises(IntegrityError, match="bytes, expected"):
        diff(store, "pets:1", "pets:2")


def test_as_json_even_with_weights_that_are_no_numbers(store):
    weights = {**sample(0).weights, "head/bias": np.float32([-np.inf, 0, 0])}
    store.publish(sample(0), "pets")
    store.publish(made(weights, {}), "pets")
    fields = json.loads(json.dumps(diff(store, "pets:1", "pets:2").canonical(), allow_nan=False))
    assert next(tensor for tensor in fields["tensors"] if tensor["name"] == "head/bias")["norm_b"] == "inf"
    assert fields["metrics"][0]["difference"] is None


def test_flatten():
    assert flatten({"a": {"b": 1, "c": {"d": [2]}}, "e": {}}) == {"a.b": 1, "a.c.d": [2], "e": {}}
