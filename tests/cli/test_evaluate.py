import json

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import accuracy_score

from dlhpc import api
from dlhpc.backends import load_backend
from dlhpc.cli.main import main
from dlhpc.data.sources import open_dataset
from dlhpc.errors import UsageError
from dlhpc.registry.artifact import new_artifact
from dlhpc.registry.blobs import content_path
from dlhpc.spec.data import ArraysSpec, DigitsSpec
from dlhpc.spec.model import MLPSpec
from dlhpc.spec.run import RunSpec
from dlhpc.weights.init import initial_weights
from dlhpc.weights.table import param_table

RUN = RunSpec(data=DigitsSpec(), model=MLPSpec(input_shape=(8, 8, 1), num_classes=10, hidden_sizes=(16,)))


def publish(run, dataset, registry, name):
    """First weights serve: what is measured here is the measuring."""
    artifact = new_artifact(
        run,
        initial_weights(param_table(run.model), 0),
        classes=dataset.info.classes,
        metrics={},
        data_fingerprint=dataset.info.fingerprint,
        load_backend=load_backend,
    )
    api.Registry(registry).publish(artifact, name)
    return artifact


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    root = tmp_path_factory.mktemp("published") / "registry"
    publish(RUN, open_dataset(RUN.data, RUN.model), root, "digits")
    return root


@pytest.fixture
def evaluate(capsys, registry):
    def run(*arguments, status=0, registry=registry):
        assert main(["evaluate", *map(str, arguments), "--registry", str(registry)]) == status
        return capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def truth(registry):
    """Accuracy on each part, by scikit-learn."""
    dataset = open_dataset(RUN.data, RUN.model)
    predict = api.Registry(registry).get("digits").predictor()
    found = {}
    for part in ("test", "validation"):
        images, labels = dataset.read(part, np.arange(dataset.info.sizes[part]))
        found[part] = (accuracy_score(labels, predict(images).argmax(1)), len(labels))
    return found


@pytest.mark.parametrize("part", ["test", "validation"])
def test_json_tells_everything(evaluate, truth, registry, part):
    said = json.loads(evaluate("digits", "--part", part, "--json").out)
    assert (said["accuracy"], said["count"]) == truth[part]
    assert (said["ref"], said["part"], said["backend"]) == ("digits", part, "flax")
    assert said["digest"] == api.Registry(registry).resolve("digits")
    assert said["data"]["source"] == "digits"
    assert len(said["classes"]) == 10
    assert np.sum(said["confusion"]) == said["count"]


def test_the_batch_size_changes_no_number(evaluate, truth):
    assert json.loads(evaluate("digits", "--batch-size", 37, "--json").out)["accuracy"] == truth["test"][0]


def test_the_table_for_people(evaluate, truth):
    text = evaluate("digits:1").out
    assert "digits:1 on the test part of digits, in flax" in text
    assert f"{truth['test'][0]:.4f}   95% interval" in text
    for word in ("macro F1", "ECE", "Brier", "NLL", "precision", "recall", "support", "Most frequent confusions"):
        assert word in text


def test_the_other_framework_answers_alike(evaluate):
    flax, torch = (json.loads(evaluate("digits", "--backend", name, "--json").out) for name in ("flax", "torch"))
    assert (flax["backend"], torch["backend"]) == ("flax", "torch")
    assert flax["confusion"] == torch["confusion"]
    assert flax["calibration"]["nll"] == pytest.approx(torch["calibration"]["nll"], rel=1e-5)


def test_report_and_picture_are_written(evaluate, tmp_path):
    said = evaluate("digits", "--out", tmp_path / "out", "--json")
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == json.loads(said.out)
    with Image.open(tmp_path / "out" / "evaluation.png") as picture:
        assert picture.format == "PNG"
    assert "written: " in said.err


def test_fail_under(evaluate, truth):
    accuracy = truth["test"][0]
    evaluate("digits", "--fail-under", accuracy)
    said = evaluate("digits", "--fail-under", accuracy + 0.01, "--json", status=1)
    assert f"accuracy {accuracy:.4f} is under" in said.err
    assert json.loads(said.out)["accuracy"] == accuracy
    assert "--fail-under" in evaluate("digits", "--fail-under", 1.5, status=2).err


@pytest.fixture
def images(tmp_path):
    """The digits' test images as files, in a folder per class."""
    dataset = open_dataset(RUN.data, RUN.model)
    pictures, labels = dataset.read("test", np.arange(300))
    for index, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        folder = tmp_path / "images" / dataset.info.classes[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture[..., 0]).save(folder / f"{index}.png")
    return tmp_path / "images"


def test_other_data_from_a_folder(evaluate, images, registry):
    said = json.loads(evaluate("digits", "--data", images, "--part", "all", "--json").out)
    dataset = open_dataset(RUN.data, RUN.model)
    pictures, labels = dataset.read("test", np.arange(300))
    predicted = api.Registry(registry).get("digits").predictor()(pictures).argmax(1)
    assert (said["count"], said["accuracy"]) == (300, accuracy_score(labels, predicted))
    assert said["data"]["path"] == str(images)
    assert 0 < json.loads(evaluate("digits", "--data", images, "--json").out)["count"] < 300


def test_data_that_does_not_fit_is_refused(evaluate, images, tmp_path):
    (images / "3").rename(images / "three")
    assert "the data lacks '3'; the model lacks 'three'" in evaluate("digits", "--data", images, status=1).err
    np.savez(tmp_path / "big.npz", inputs=np.zeros((50, 9, 9, 1), np.uint8), labels=np.arange(50) % 10)
    said = evaluate("digits", "--data", tmp_path / "big.npz", status=1)
    assert "the data's images are [9, 9, 1], the model wants [8, 8, 1]" in said.err
    assert "no such file or folder" in evaluate("digits", "--data", tmp_path / "none", status=4).err


def test_all_parts_of_the_training_data_are_no_test(evaluate, registry):
    assert "learnt from" in evaluate("digits", "--part", "all", status=2).err
    with pytest.raises(UsageError, match="learnt from"):
        api.evaluate("digits", registry=registry, data=RUN.data, part="all")


def test_data_that_changed_since_the_training_is_told(tmp_path, evaluate, caplog):
    path = tmp_path / "data.npz"
    draw = np.random.default_rng(0)
    inputs = draw.integers(0, 256, (60, 4, 4, 1), np.uint8)
    np.savez(path, inputs=inputs, labels=np.arange(60) % 3)
    run = RunSpec(data=ArraysSpec(path=path), model=MLPSpec(input_shape=(4, 4, 1), num_classes=3, hidden_sizes=()))
    publish(run, open_dataset(run.data, run.model), tmp_path / "own", "arrays")
    evaluate("arrays", registry=tmp_path / "own")
    assert "the data has changed" not in caplog.text
    np.savez(path, inputs=255 - inputs, labels=np.arange(60) % 3)
    evaluate("arrays", registry=tmp_path / "own")
    assert "the data has changed since" in caplog.text


def test_a_damaged_version_is_not_evaluated(tmp_path, evaluate):
    artifact = publish(RUN, open_dataset(RUN.data, RUN.model), tmp_path / "own", "digits")
    path = content_path(tmp_path / "own" / "blobs", artifact.manifest.files["weights.safetensors"].sha256)
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    said = evaluate("digits", status=3, registry=tmp_path / "own")
    assert str(path) in said.err
    assert said.out == ""


def test_many_classes_are_summed_up(tmp_path, evaluate):
    path = tmp_path / "many.npz"
    draw = np.random.default_rng(0)
    np.savez(path, inputs=draw.integers(0, 256, (600, 4, 4, 1), np.uint8), labels=np.arange(600) % 60)
    run = RunSpec(data=ArraysSpec(path=path), model=MLPSpec(input_shape=(4, 4, 1), num_classes=60, hidden_sizes=()))
    publish(run, open_dataset(run.data, run.model), tmp_path / "own", "many")
    text = evaluate("many", registry=tmp_path / "own").out
    assert "The 20 of 60 classes with the lowest F1" in text


def test_what_is_not_published_is_not_found(evaluate, tmp_path):
    assert "did you mean 'digits'?" in evaluate("digit", status=4).err
    assert "no model is published" in evaluate("digits", status=4, registry=tmp_path / "none").err
