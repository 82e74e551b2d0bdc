"""Parts by hash and by halves."""

from __future__ import annotations

import numpy as np
import pytest

from dlhpc.data.split import split_rows
from dlhpc.errors import DataError
from dlhpc.spec.data import SplitSpec


def together(parts):
    return np.sort(np.concatenate(list(parts.values())))


@pytest.mark.parametrize(("method", "least"), [("hash", 3), ("halves", 4)])
@pytest.mark.parametrize("more", [0, 1, 2, 7, 98, 1794])
def test_every_example_is_in_exactly_one_part(method, least, more):
    count = least + more
    parts = split_rows(np.arange(count), SplitSpec(method=method))
    assert (together(parts) == np.arange(count)).all()
    assert all(len(rows) for rows in parts.values())


def test_shares_are_met():
    parts = split_rows(np.arange(100_000), SplitSpec(validation=0.2, test=0.05))
    assert len(parts["validation"]) == pytest.approx(20_000, rel=0.03)
    assert len(parts["test"]) == pytest.approx(5_000, rel=0.05)


def test_shares_of_zero_leave_parts_empty():
    parts = split_rows(np.arange(10), SplitSpec(validation=0.0, test=0.0))
    assert [len(parts[part]) for part in ("train", "validation", "test")] == [10, 0, 0]


@pytest.mark.parametrize("offset", [0, 2**40])
def test_an_example_keeps_its_part_when_others_are_added(offset):
    ids = np.arange(5000) + offset
    few, many = split_rows(ids[:3000], SplitSpec()), split_rows(ids, SplitSpec())
    for part, rows in few.items():
        assert (rows == many[part][many[part] < 3000]).all()


def test_both_words_of_an_id_count():
    low = split_rows(np.arange(500), SplitSpec())
    high = split_rows(np.arange(500) << 32, SplitSpec())
    assert not np.array_equal(low["test"], high["test"])


def test_halves_are_those_of_the_order():
    parts = split_rows(np.arange(1797), SplitSpec(method="halves"))
    assert (parts["test"] == np.arange(898, 1797)).all()
    assert len(parts["test"]) == 899
    assert together({"train": parts["train"], "validation": parts["validation"]}).max() == 897


def test_a_larger_test_share_only_takes_examples_from_the_others():
    small, large = (split_rows(np.arange(1000), SplitSpec(test=share)) for share in (0.1, 0.3))
    assert set(small["test"]) < set(large["test"])


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_examples_are_refused(count):
    with pytest.raises(DataError, match="leave none for training"):
        split_rows(np.arange(count), SplitSpec())


def test_halves_need_something_in_the_first_half():
    with pytest.raises(DataError, match="leave none for training"):
        split_rows(np.arange(3), SplitSpec(method="halves"))
