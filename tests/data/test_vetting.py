"""Files that would cost their parser more than their bytes, and files that are as large as files get."""

from __future__ import annotations

import pytest

from dlhpc.data.vetting import MOST_READS, MOST_SCANS, Metered, vet
from dlhpc.errors import DataError
from tests.faults import images
from tests.faults.images import grey, saved


def test_a_jpeg_of_many_scans_is_refused() -> None:
    content = saved(grey(), "JPEG", progressive=True)
    head, *scans = content.split(b"\xff\xda")
    usual = b"\xff\xda".join([head, *([scans[0]] * MOST_SCANS)])
    vet(usual + b"\xff\xd9")
    with pytest.raises(DataError, match="more than 64 scans"):
        vet(usual + b"\xff\xda" + scans[0] + b"\xff\xd9")


def test_what_only_looks_like_scans_is_none() -> None:
    content = saved(grey(), "JPEG")
    thumbnail = b"\xff\xda" * 1_000
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    vet(content[:2] + segment + content[2:] + b"\xff\xda" * 1_000)  # a film after the end, as some cameras write


def test_a_jpeg_of_many_segments_is_refused() -> None:
    with pytest.raises(DataError, match="2000 segments"):
        vet(images.many_segments(2_001))


@pytest.mark.parametrize(("compression", "name"), [(1, "RLE8"), (2, "RLE4")])
def test_a_bmp_of_run_lengths_is_refused(compression: int, name: str) -> None:
    content = bytearray(images.run_length_bmp())
    content[30] = compression
    with pytest.raises(DataError, match=f"{name}, which is not read"):
        vet(bytes(content))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP"])
def test_ordinary_files_pass_whole_or_not(kind: str) -> None:
    content = saved(grey((300, 200)), kind)
    for end in (2, 20, 40, len(content) // 2, len(content)):
        vet(content[:end])


def test_a_parser_may_ask_so_often() -> None:
    file = Metered(b"x")
    for _ in range(MOST_READS):
        file.read(1)
    with pytest.raises(DataError, match="too many small parts"):
        file.read(1)
