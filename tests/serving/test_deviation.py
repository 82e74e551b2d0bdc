"""How far a loaded version is from its stored answers, and what is told of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from dlhpc.registry.manifest import GOLDEN_FILE
from dlhpc.serving.deviation import deviation, told, too_far
from tests.registry.samples import sample
from tests.serving.asgi import INFO


def test_it_is_the_largest_difference_over_the_largest_answer_in_batches_as_served() -> None:
    artifact, sizes = sample(1), []
    golden = artifact.golden()

    def off(inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        start = sum(sizes)
        sizes.append(len(inputs))
        found = golden.outputs[start : start + len(inputs)].copy()
        found[0, 0] += 0.25 if len(sizes) == 2 else 0.0
        return found

    assert deviation(artifact, off, 3) == pytest.approx(0.25 / golden.outputs.max())
    assert sizes == [3, 3, 2]


def test_no_number_is_infinitely_far() -> None:
    artifact = sample(1)
    assert deviation(artifact, lambda inputs: np.full((len(inputs), 3), np.nan, np.float32), 8) == float("inf")


def test_a_version_without_stored_answers_is_not_compared() -> None:
    artifact = sample(1)
    files = {name: entry for name, entry in artifact.manifest.files.items() if name != GOLDEN_FILE}
    old = replace(artifact, manifest=artifact.manifest.model_copy(update={"files": files}))
    assert deviation(old, lambda inputs: pytest.fail("asked"), 8) is None
    assert told(INFO) == "m:1 answers in float32 on flax: it has no stored answers to compare with"


def test_what_is_told_names_precision_and_remedy() -> None:
    narrow = INFO.model_copy(update={"precision": "bfloat16", "deviation": 0.0123})
    assert told(narrow) == (
        "m:1 answers in bfloat16 on flax: at most 0.012 of the largest one off the answers that were stored with it"
    )
    assert "more than max_deviation (0.01): serve it in float32: --set precision=float32, or" in str(
        too_far(narrow, 0.0123, 0.01)
    )
    assert "m:1 in float32 on flax: answers differ by inf of the largest one" in str(too_far(INFO, float("inf"), 0.01))
    assert "try the other framework, or allow more" in str(too_far(INFO, 0.1, 0.01))
