"""Names that a run derives."""

from __future__ import annotations

from pathlib import Path

import pytest

from dlhpc.spec.data import DigitsSpec, ImageFolderSpec, SplitSpec
from dlhpc.spec.model import CNNSpec, MLPSpec
from dlhpc.spec.run import MODEL_NAMES, RunSpec


def test_the_given_name_counts():
    assert RunSpec(name="flowers").resolved_name == "flowers"


def test_without_a_name_data_and_architecture_make_one():
    assert RunSpec(data=DigitsSpec(), model=CNNSpec()).resolved_name == "digits-cnn"
    assert RunSpec(data=ImageFolderSpec(path=Path("x"))).resolved_name == "image-folder-mlp"


@pytest.mark.parametrize(("name", "pair"), MODEL_NAMES.items())
def test_the_file_name_of_a_model(name, pair):
    architecture, backend = pair
    model = MLPSpec() if architecture == "mlp" else CNNSpec()
    assert RunSpec(backend=backend, model=model).model_name == name


def test_a_split_leaves_something_to_train_on():
    with pytest.raises(ValueError, match="leave less than a tenth"):
        SplitSpec(validation=0.5, test=0.5)
    assert SplitSpec(method="halves", validation=0.5, test=0.5).validation == 0.5
