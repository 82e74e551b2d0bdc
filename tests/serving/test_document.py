"""docs/serving.md tells every code, metric and path."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dlhpc.monitoring.metrics import ReplicaMetrics
from dlhpc.spec.wire import PROBLEMS

DOCUMENT = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()


@pytest.mark.parametrize("code", PROBLEMS)
def test_every_problem_is_told_with_its_status(code: str) -> None:
    assert f"| {PROBLEMS[code].status} | `{code}` |" in DOCUMENT


def test_no_other_problem_is_told() -> None:
    assert set(re.findall(r"^\| \d{3} \| `(\w+)` \|", DOCUMENT, re.MULTILINE)) == set(PROBLEMS)


def test_every_metric_is_told() -> None:
    for family in ReplicaMetrics().families():
        name = re.sub(r"_process_.*", "_process_", family.name)
        assert f"`{name}" in DOCUMENT, name
