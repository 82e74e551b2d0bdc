"""The picture of augmented examples."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from dlhpc.data.augment import augment
from dlhpc.data.contact_sheet import contact_sheet, write_png
from dlhpc.data.parted import PartedDataset
from dlhpc.data.source import MemorySource
from dlhpc.errors import DataError
from dlhpc.spec.data import AugmentSpec, SplitSpec


def test_shows_the_original_then_what_training_sees(small):
    jitter = AugmentSpec(rotation=40.0)
    sheet = contact_sheet(small, jitter, 3, examples=2, epochs=2)
    scale, gap = 11, 4  # 6 pixels become 66, the first multiple above 64
    assert sheet.shape == (gap + 2 * (6 * scale + gap), gap + 3 * (5 * scale + gap), 3)
    positions = np.array([0, small.info.sizes["train"] - 1])
    originals, _ = small.read("train", positions)
    for row, position in enumerate(positions):
        ids = small.ids("train")[[position]]
        seen = [augment(originals[[row]], ids, np.array([epoch]), jitter, 3)[0] for epoch in (0, 1)]
        for column, image in enumerate([originals[row], *seen]):
            top, left = gap + row * (6 * scale + gap), gap + column * (5 * scale + gap)
            assert (sheet[top : top + 6 * scale : scale, left : left + 5 * scale : scale] == image).all()


def test_a_grey_sheet_is_written_as_png(noise, tmp_path):
    source = MemorySource(noise(9, 70, 90, 1), np.arange(9) % 2, np.arange(9))
    sheet = contact_sheet(PartedDataset(source, SplitSpec()), AugmentSpec(), 0, examples=50, epochs=1)
    write_png(sheet, tmp_path / "new" / "sheet.png")
    with Image.open(tmp_path / "new" / "sheet.png") as image:
        assert image.format == "PNG"
        assert (np.asarray(image) == sheet[..., 0]).all()


def test_other_channels_cannot_be_drawn(noise):
    source = MemorySource(noise(9, 4, 4, 2), np.arange(9) % 2, np.arange(9))
    with pytest.raises(DataError, match="2 channels cannot be drawn"):
        contact_sheet(PartedDataset(source, SplitSpec()), AugmentSpec(), 0)
