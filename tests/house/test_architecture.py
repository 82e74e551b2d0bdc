"""ARCHITECTURE.md tells the levels as the rules check them, and the types where they are."""

from __future__ import annotations

import re
from pathlib import Path

from tests.house.rules import LEVELS


def rows(document: str, heading: str) -> list[list[str]]:
    """Cells of the table under a heading, without its head."""
    section = document.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    table = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]


def test_the_table_of_levels_is_the_one_that_is_checked(checkout: Path) -> None:
    document = (checkout / "ARCHITECTURE.md").read_text()
    told = [(level, re.findall(r"`([^`]+)`", rooms)) for level, rooms, _ in rows(document, "The rooms")]
    assert told == LEVELS


def test_no_room_is_empty(checkout: Path) -> None:
    package = checkout / "src" / "dlhpc"
    for _, patterns in LEVELS:
        for pattern in patterns:
            places = pattern.replace(".", "/")
            assert list(package.glob(f"{places}.py")) or (package / places).is_dir(), pattern


def test_each_type_is_where_the_document_says(checkout: Path) -> None:
    document = (checkout / "ARCHITECTURE.md").read_text()
    for names, _, place in rows(document, "The types that carry everything"):
        source = (checkout / "src" / "dlhpc" / place.strip("`")).read_text()
        for name in re.findall(r"`(\w+)`", names):
            assert re.search(rf"^(class {name}\b|{name}\b.* = )", source, re.MULTILINE), (name, place)
