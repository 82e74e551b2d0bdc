"""Which examples are for training, which for validation, which for the test.

The cut depends on the examples' ids and the spec alone, never on the run's seed: every run on the same data keeps
the same test part, and an example keeps its part when others are added.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dlhpc.data.dataset import Part
from dlhpc.data.source import Rows
from dlhpc.draws import NUMPY, uniform
from dlhpc.errors import DataError
from dlhpc.spec.data import SplitSpec

SPLIT_DOMAIN = 0x5B11_7000
"""First counter of the draws that divide examples, so that they share no bits with other draws."""


def split_rows(ids: npt.NDArray[np.int64], spec: SplitSpec) -> dict[Part, Rows]:
    """Row numbers of each part, ascending.

    A part whose share is not zero gets at least one example (the one whose hash lies nearest), since a folder of a
    dozen images would else have an empty test now and then. Raises DataError when nothing is left to train on.
    """
    draws = uniform(NUMPY, SPLIT_DOMAIN, ids, ids >> 32)
    if spec.method == "halves":
        half = len(ids) // 2
        _, validation, train = _cut(draws[:half], 0.0, spec.validation)
        test = np.arange(half, len(ids), dtype=np.int64)
    else:
        test, validation, train = _cut(draws, spec.test, spec.validation)
    if train.size == 0:
        raise DataError(
            f"data.split: {len(ids)} example(s) leave none for training with validation={spec.validation}, "
            f"test={spec.test} ({spec.method}); add examples or lower the shares"
        )
    return {"train": train, "validation": validation, "test": test}


def _cut(draws: npt.NDArray[np.float32], test: float, validation: float) -> tuple[Rows, Rows, Rows]:
    """Rows whose draw lies in [0, test), in [test, test + validation), and above."""
    lowest_first = np.argsort(draws, kind="stable")
    sorted_draws = draws[lowest_first]
    test_size = int(np.searchsorted(sorted_draws, test))
    if test > 0:
        test_size = max(test_size, 1)
    held_out = max(int(np.searchsorted(sorted_draws, test + validation)), test_size)
    if validation > 0:
        held_out = max(held_out, test_size + 1)
    return (
        np.sort(lowest_first[:test_size]),
        np.sort(lowest_first[test_size:held_out]),
        np.sort(lowest_first[held_out:]),
    )
