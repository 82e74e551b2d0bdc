import numpy as np
import pytest
from PIL import Image

from dlhpc.data.sources import open_dataset
from dlhpc.errors import DataError, NotFoundError, UsageError
from dlhpc.spec.data import ArraysSpec, DigitsSpec, ImageFolderSpec, SplitSpec, SyntheticSpec
from dlhpc.spec.model import MLPSpec
from dlhpc.training.evaluation_data import answers, check_fits, data_at

STORED = SyntheticSpec(split=SplitSpec(validation=0.2, test=0.3), mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))


def test_a_folder_is_read_as_the_model_wants_its_images(tmp_path):
    assert data_at(tmp_path, STORED, (5, 7, 3)) == ImageFolderSpec(
        path=tmp_path, split=STORED.split, mean=STORED.mean, std=STORED.std, image_size=(5, 7), channels=3
    )


def test_an_npz_file_is_read_as_it_is(tmp_path):
    path = tmp_path / "x.npz"
    path.touch()
    assert data_at(path, STORED, (5, 7, 2)) == ArraysSpec(
        path=path, split=STORED.split, mean=STORED.mean, std=STORED.std
    )


def test_what_cannot_be_data_is_refused(tmp_path):
    (tmp_path / "x.zip").touch()
    with pytest.raises(NotFoundError, match="nowhere: no such file or folder"):
        data_at(tmp_path / "nowhere", STORED, (5, 7, 3))
    with pytest.raises(UsageError, match=r"x\.zip: expected a folder"):
        data_at(tmp_path / "x.zip", STORED, (5, 7, 3))
    with pytest.raises(UsageError, match="the model wants 2"):
        data_at(tmp_path, STORED, (5, 7, 2))


@pytest.mark.parametrize(
    ("classes", "shape", "message"),
    [
        (("cat", "dog"), (4, 4, 1), None),
        (("cat", "dog"), (4, 4, 3), r"images are \[4, 4, 1\], the model wants \[4, 4, 3\]"),
        (("dog", "cat"), (4, 4, 1), "they are in another order"),
        (("cat", "dog", "eel"), (4, 4, 1), "2 classes are not the model's 3: the data lacks 'eel'"),
        (("cat", "fox"), (4, 4, 1), "the data lacks 'fox'; the model lacks 'dog'"),
    ],
)
def test_data_must_fit_the_model(classes, shape, message, tmp_path):
    draw = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for index in range(20):
            Image.fromarray(draw.integers(0, 256, (4, 4), np.uint8)).save(tmp_path / name / f"{index}.png")
    dataset = open_dataset(ImageFolderSpec(path=tmp_path, image_size=(4, 4), channels=1), MLPSpec())
    if message is None:
        check_fits(dataset, classes, shape)
    else:
        with pytest.raises(DataError, match=message):
            check_fits(dataset, classes, shape)


class Counting:
    """A predictor whose answer tells which image it was given."""

    def __init__(self):
        self.sizes = []

    def __call__(self, inputs):
        self.sizes.append(len(inputs))
        return inputs.reshape(len(inputs), -1)[:, :3].astype(np.float32)


@pytest.mark.parametrize("part", ["validation", "test", "all"])
def test_answers_are_in_the_order_of_the_part_without_padding(part):
    dataset = open_dataset(DigitsSpec(), MLPSpec())
    predict, done = Counting(), []
    probabilities, labels = answers(predict, dataset, part, 100, lambda *each: done.append(each))
    parts = ("train", "validation", "test") if part == "all" else (part,)
    pairs = [dataset.read(each, np.arange(dataset.info.sizes[each])) for each in parts]
    images, truth = (np.concatenate(each) for each in zip(*pairs, strict=True))
    np.testing.assert_array_equal(labels, truth)
    np.testing.assert_array_equal(probabilities, images.reshape(len(images), -1)[:, :3])
    assert set(predict.sizes) == {100}, "one constant size compiles once"
    assert done[-1] == (len(truth), len(truth))
    assert [count for count, _ in done] == sorted(count for count, _ in done)


def test_an_empty_part_is_refused():
    dataset = open_dataset(SyntheticSpec(split=SplitSpec(test=0.0), num_examples=50), MLPSpec())
    with pytest.raises(DataError, match="the test part of the data is empty"):
        answers(Counting(), dataset, "test", 10)


def test_changed_test_labels_change_the_evaluation_and_not_one_weight(tmp_path):
    """Training never looks at the test part's labels: with others, the weights are the same to the bit."""
    from dlhpc import api
    from dlhpc.data.sources.digits import open_digits

    source = open_digits()
    rows = np.arange(400)
    arrays = {"inputs": source.inputs(rows), "labels": source.labels(rows).copy()}
    hidden = open_dataset(arrays_file(tmp_path, arrays), MLPSpec()).ids("test")
    assert len(hidden) > 20
    found = []
    for change in (0, 3):
        arrays["labels"][hidden] = (source.labels(rows)[hidden] + change) % 10
        data = arrays_file(tmp_path, arrays)
        settings = ["data.source=arrays", f"data.path={data.path}", "data.split.validation=0.15", "data.split.test=0.2",
                    "model.name=FlaxMLP", "model.hidden_sizes=[16]", "training.num_epochs=8",
                    "training.learning_rate=0.01", f"name=change-{change}"]  # fmt: skip
        artifact = api.train(api.load_run(None, overrides=settings))
        found.append((artifact, api.evaluate(f"change-{change}", registry="registry")))
    (first, before), (second, after) = found
    assert first.manifest.files == second.manifest.files
    assert first.manifest.metrics == second.manifest.metrics
    assert first.manifest.data_fingerprint == second.manifest.data_fingerprint
    assert before.count == after.count == len(hidden)
    assert before.accuracy > 0.6
    assert after.accuracy < 0.2


def arrays_file(folder, arrays):
    np.savez(folder / "data.npz", classes=[f"digit {label}" for label in range(10)], **arrays)
    return ArraysSpec(path=folder / "data.npz", split=SplitSpec(validation=0.15, test=0.2))
