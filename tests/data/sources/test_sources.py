"""The door to all sources."""

from __future__ import annotations

import numpy as np
import pytest

from dlhpc.data.sources import open_dataset, section_for
from dlhpc.errors import ConfigError, DataError, NotFoundError
from dlhpc.spec.data import DigitsSpec, SyntheticSpec
from dlhpc.spec.model import CNNSpec, MLPSpec


@pytest.mark.parametrize("setting", ["mean", "std"])
def test_constants_are_one_or_one_per_channel(setting):
    colour = SyntheticSpec(num_examples=50, image_shape=(4, 4, 3))
    for count in (1, 3):
        open_dataset(colour.model_copy(update={setting: (0.5,) * count}), CNNSpec())
    with pytest.raises(ConfigError, match=rf"data\.{setting}: 2 values for images of 3 channel"):
        open_dataset(colour.model_copy(update={setting: (0.5,) * 2}), CNNSpec())
    with pytest.raises(ConfigError, match="3 values for images of 1 channel"):
        open_dataset(DigitsSpec(**{setting: (0.5,) * 3}), MLPSpec())


def test_a_path_says_its_kind(folder, tmp_path, monkeypatch):
    np.savez(tmp_path / "a.npz", x=1)
    (tmp_path / "a.csv").write_text("")
    monkeypatch.chdir(tmp_path)
    assert section_for(folder.relative_to(tmp_path)) == {"source": "image_folder", "path": str(folder)}
    assert section_for((tmp_path / "a.npz").relative_to(tmp_path)) == {
        "source": "arrays",
        "path": str(tmp_path / "a.npz"),
    }
    with pytest.raises(DataError, match=r"a\.csv: expected a folder"):
        section_for(tmp_path / "a.csv")
    with pytest.raises(NotFoundError, match="gone"):
        section_for(tmp_path / "gone")
