"""docs/faults.md tells what the tests show, and leaves none of them out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dlhpc.spec.wire import PROBLEMS

DEFINED = re.compile(r"^def (test_\w+)\(", re.MULTILINE)
OURS = ("test_bodies.py", "test_images.py", "test_http.py", "test_clients.py", "test_models.py", "test_replicas.py")


@pytest.fixture(scope="module")
def rows(checkout: Path) -> list[list[str]]:
    """The cells of every fault."""
    text = (checkout / "docs" / "faults.md").read_text()
    found = [[cell.strip() for cell in line[1:-1].split("|")] for line in text.splitlines() if line.startswith("|")]
    return [cells for cells in found if cells[0] != "fault" and not cells[0].startswith("---")]


def test_every_row_names_a_test_that_exists(checkout: Path, rows: list[list[str]]) -> None:
    wrong = []
    for fault, _, _, cell in rows:
        named = re.findall(r"`([\w/.]+)::(\w+)`", cell)
        if not named:
            wrong.append(f"{fault}: no test")
        for file, function in named:
            path = checkout / file
            if not path.is_file() or f"def {function}(" not in path.read_text():
                wrong.append(f"{fault}: {file}::{function} does not exist")
    assert wrong == []


def test_every_code_has_the_status_that_its_row_tells(rows: list[list[str]]) -> None:
    assert len(rows) > 50
    told = [(int(status), code.strip("`")) for _, status, code, _ in rows if code]
    assert [(status, code) for status, code in told if PROBLEMS[code].status != status] == []


def test_every_test_of_a_fault_is_in_a_row(checkout: Path, rows: list[list[str]]) -> None:
    named = " ".join(cells[3] for cells in rows)
    missing = [
        f"{file}::{function}"
        for file in OURS
        for function in DEFINED.findall((checkout / "tests" / "faults" / file).read_text())
        if f"tests/faults/{file}::{function}`" not in named
    ]
    assert missing == []
