import json

import pytest
from pydantic import ValidationError

from dlhpc.errors import IntegrityError, UsageError
from dlhpc.ports import Preprocessing
from dlhpc.registry.manifest import Manifest, parse_manifest, sha256
from dlhpc.spec.base import canonical_json
from dlhpc.spec.data import ArraysSpec, AugmentSpec, DigitsSpec, ImageFolderSpec, SplitSpec
from dlhpc.spec.model import CNNSpec
from dlhpc.spec.optimizer import LionSpec, ParameterGroup
from dlhpc.spec.registry import RegistrySpec
from dlhpc.spec.schedule import ConstantSchedule
from dlhpc.spec.training import TrainingSpec
from tests.registry.samples import sample, sample_run

MODEL = CNNSpec(input_shape=(4, 4, 1), num_classes=3, channels=(2,), strides=(1,), hidden_sizes=())
RUNS = [
    {},
    {"backend": "torch", "model": MODEL, "name": "a-name", "runs_dir": "elsewhere/runs"},
    {"data": DigitsSpec(mean=(1 / 3,), std=(0.1,), augment=AugmentSpec(rotation=10.5, scale=0.1))},
    {"data": ArraysSpec(path="some/file.npz", split=SplitSpec(validation=0.15))},
    {"data": ImageFolderSpec(path="/absolute/ä/folder", image_size=(4, 4), channels=1)},
    {"optimizer": LionSpec(b1=0.95, groups=(ParameterGroup(match="head/*", learning_rate_scale=0.0),))},
    {"training": TrainingSpec(learning_rate=3e-4, schedule=ConstantSchedule())},
    {"registry": RegistrySpec(path="else/where", alias="production", publish=False)},
]


@pytest.mark.parametrize("changes", RUNS)
def test_the_run_comes_back_equal(changes):
    artifact = sample(**changes)
    read = parse_manifest(artifact.manifest_bytes, "here")
    assert read == artifact.manifest
    assert read.run == sample_run(**changes)
    assert read.run.digest == sample_run(**changes).digest
    assert read.to_bytes() == artifact.manifest_bytes


def test_the_bytes_are_canonical_and_name_the_version():
    artifact = sample()
    content = artifact.manifest_bytes
    assert content == canonical_json(json.loads(content))
    assert artifact.digest == sha256(content) == sample().digest
    assert artifact.digest != sample(1).digest


@pytest.mark.parametrize("key", sorted(json.loads(sample().manifest_bytes)))
def test_every_part_is_part_of_the_identity(key):
    """The digest depends on each key: none is decoration."""
    fields = json.loads(sample().manifest_bytes)
    assert sha256(canonical_json({**fields, key: "other"})) != sha256(canonical_json(fields))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ("cat", "dog")}, "disagree"),
        ({"classes": ("cat", "dog", "eel", "fox")}, "disagree"),
        ({"preprocessing": Preprocessing(mean=(0.5,), std=(0.75,))}, "preprocessing is not that of run.data"),
        ({"files": {}}, "no 'weights.safetensors'"),
        ({"files": {"weights.safetensors": {"sha256": "ab" * 32, "size": 1}}}, "no 'golden.safetensors'"),
        ({"files": {"../x": {"sha256": "ab" * 32, "size": 1}}}, "should match pattern"),
        ({"files": {"weights.safetensors": {"sha256": "AB" * 32, "size": 1}}}, "should match pattern"),
        ({"files": {"weights.safetensors": {"sha256": "ab" * 32, "size": -1}}}, "greater than or equal to 0"),
        ({"metrics": {"accuracy": float("nan")}}, "finite"),
        ({"parents": ("123",)}, "should match pattern"),
        ({"surprise": 1}, "Extra inputs"),
    ],
)
def test_contradictions_are_refused(changes, message):
    fields = {**dict(sample().manifest), **changes}
    with pytest.raises(ValidationError, match=message):
        Manifest(**fields)


def test_the_inputs_must_be_the_models():
    fields = dict(sample().manifest)
    inputs = fields["inputs"].model_copy(update={"shape": (None, 4, 4, 3)})
    with pytest.raises(ValidationError, match=r"inputs\.shape"):
        Manifest(**{**fields, "inputs": inputs})


def test_a_newer_format_asks_for_an_upgrade():
    content = canonical_json({**json.loads(sample().manifest_bytes), "format": 3})
    with pytest.raises(UsageError, match="the/file: written in format 3; this dlhpc reads up to 2: upgrade it"):
        parse_manifest(content, "the/file")


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b"{}", b"null", b'{"format":1}', b'{"format":"1"}'])
def test_what_is_no_manifest_is_refused_by_name(content):
    with pytest.raises(IntegrityError, match="the/file: not a manifest"):
        parse_manifest(content, "the/file")


def test_size_is_that_of_all_files():
    manifest = sample().manifest
    assert manifest.size == manifest.files["weights.safetensors"].size + manifest.files["golden.safetensors"].size > 0
