from dataclasses import replace

import numpy as np
import pytest

from dlhpc.backends import load_backend
from dlhpc.errors import IntegrityError, TrainingError
from dlhpc.registry.artifact import load_artifact, new_artifact
from dlhpc.registry.golden import EXAMPLES, golden_inputs, read_golden
from dlhpc.registry.manifest import GOLDEN_FILE, WEIGHTS_FILE
from dlhpc.weights.file import to_bytes
from tests.registry.samples import CLASSES, sample, sample_run


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 1), (4, 4, 1), (8, 8, 3), (65, 31, 4)])
def test_images_of_any_shape(shape):
    images = golden_inputs(shape)
    assert (images.shape, images.dtype) == ((EXAMPLES, *shape), np.uint8)
    assert (images[0].max(), images[1].min()) == (0, 255)
    np.testing.assert_array_equal(images, golden_inputs(shape))


def test_they_are_the_same_on_every_machine():
    assert golden_inputs((2, 2, 2))[7].ravel().tolist() == [124, 177, 164, 122, 124, 172, 96, 148]


def test_the_random_ones_are_smooth_and_use_the_range():
    images = golden_inputs((64, 64, 3)).astype(int)[2:]
    for number, image in enumerate(images, 2):
        # Neighbours differ by no more than a step of the coarse grid spread over its cell allows.
        most = np.ceil(256 * (number - 1) / 64) + 1
        assert max(np.abs(np.diff(image, axis=axis)).max() for axis in (0, 1)) <= most
        assert image.max() - image.min() > 100
    assert len({image.tobytes() for image in images}) == len(images)


@pytest.mark.parametrize("backend", ["flax", "torch"])
def test_a_version_keeps_the_answers_of_the_framework_that_trained_it(backend):
    run, weights = sample_run(backend=backend), sample().weights
    facts = {"classes": CLASSES, "metrics": {}, "data_fingerprint": "ab", "load_backend": load_backend}
    artifact = new_artifact(run, weights, **facts)
    golden = artifact.golden()
    np.testing.assert_array_equal(golden.inputs, golden_inputs((4, 4, 1)))
    np.testing.assert_array_equal(golden.outputs, artifact.predictor()(golden.inputs))
    np.testing.assert_allclose(golden.outputs, sample().golden().outputs, atol=1e-6)  # numpy's
    assert new_artifact(run, weights, **facts).digest == artifact.digest


def test_what_is_stored_is_given_not_what_would_be_drawn():
    artifact = sample()
    golden = artifact.golden()
    other = replace(golden, inputs=golden.inputs[:3], outputs=golden.outputs[:3])
    changed = replace(artifact, files={GOLDEN_FILE: other.to_bytes()}).golden()
    np.testing.assert_array_equal(changed.inputs, golden.inputs[:3])


def test_a_version_without_gets_the_same_images_answered_now():
    artifact = sample(backend="torch")
    files = {WEIGHTS_FILE: artifact.manifest.files[WEIGHTS_FILE]}
    manifest = artifact.manifest.model_copy(update={"format": 1, "files": files})
    old = load_artifact(manifest.to_bytes(), {WEIGHTS_FILE: to_bytes(artifact.weights)}, load_backend, "pets:1")
    assert GOLDEN_FILE not in old.files
    np.testing.assert_array_equal(old.golden().inputs, artifact.golden().inputs)
    np.testing.assert_array_equal(old.golden().outputs, old.predictor("torch")(old.golden().inputs))


def test_answers_that_are_no_numbers_are_refused():
    weights = {**sample().weights, "head/bias": np.float32([np.nan, 0, 0])}
    with pytest.raises(TrainingError, match="give no probabilities"):
        new_artifact(
            sample_run(), weights, classes=CLASSES, metrics={}, data_fingerprint="ab", load_backend=load_backend
        )


IMAGES, ANSWERS = np.zeros((2, 4, 4, 1), np.uint8), np.zeros((2, 3), np.float32)


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"inputs": IMAGES},
        {"inputs": IMAGES, "outputs": ANSWERS, "more": ANSWERS},
        {"inputs": IMAGES, "outputs": ANSWERS[:1]},
        {"inputs": IMAGES[:0], "outputs": ANSWERS[:0]},
        {"inputs": IMAGES[:, :3], "outputs": ANSWERS},
        {"inputs": IMAGES.astype(np.float32), "outputs": ANSWERS},
        {"inputs": IMAGES, "outputs": ANSWERS.astype(np.float64)},
        {"inputs": np.uint8(1), "outputs": ANSWERS},
    ],
)
def test_other_files_are_refused_by_name(arrays):
    with pytest.raises(IntegrityError, match=r"the/file: not the golden examples .* expected inputs \('N', 4, 4, 1\)"):
        read_golden(to_bytes(arrays), (4, 4, 1), 3, "the/file")


def test_they_are_checked_when_a_version_is_loaded():
    artifact = sample()
    files = {WEIGHTS_FILE: to_bytes(artifact.weights), GOLDEN_FILE: to_bytes({"inputs": IMAGES})}
    with pytest.raises(IntegrityError, match=r"pets:1: golden\.safetensors: not the golden examples"):
        load_artifact(artifact.manifest_bytes, files, load_backend, "pets:1")
