"""docs/seed-coverage.md leaves nothing of the seed out, and what it points to exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.blocks import blocks, command_lines

STATES = {"done", "partly", "later", "deviates", "elsewhere"}
BY_HAND = re.compile(r"\[[^]]*\]\([^)]*\)|\*\*|`")


@pytest.fixture(scope="session")
def seed(checkout: Path) -> Path:
    return checkout / "tests" / "seed" / "seed.md"


@pytest.fixture(scope="session")
def page(checkout: Path) -> str:
    return (checkout / "docs" / "seed-coverage.md").read_text()


def table(page: str, heading: str) -> dict[str, list[str]]:
    """First cell -> the others; of the first table below the heading."""
    section = page.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    first = re.search(r"((?:^\|.*\n)+)", section, re.MULTILINE)
    assert first
    found = [[cell.strip() for cell in line.strip()[1:-1].split("|")] for line in first[1].splitlines()[2:]]
    return {cells[0]: cells[1:] for cells in found}


def everything(page: str) -> dict[str, tuple[str, str, str]]:
    """Item -> (here, proof, state), of all tables."""
    found = {}
    for heading in ("Files", "Commands", "Features", "Numbers"):
        for item, cells in table(page, heading).items():
            here, proof, state = ["", *cells] if heading == "Commands" else cells
            found[f"{heading}: {item}"] = (here, proof, state)
    return found


def test_every_file_of_the_seed_has_a_row(seed: Path, page: str) -> None:
    text = seed.read_text()
    named = set(re.findall(r"^(?:File|Directory): `([^`]+)`", text, re.MULTILINE))
    named |= set(re.findall(r"(?<![\w/])((?:src|config|benchmarks|tests)/[\w/]+\.\w+|requirements[\w-]*\.txt)", text))
    named |= {"LICENSE", "./helm"}
    assert {f"`{name}`" for name in named} == set(table(page, "Files"))


def test_every_command_of_the_seed_has_a_row(seed: Path, page: str) -> None:
    shell = [block for block in blocks(seed) if block.kind in {"bash", "python"}]
    commands = {f"`{command}`" for block in shell for command in command_lines(block.text)}
    assert len(commands) > 20
    assert commands == set(table(page, "Commands"))


def test_every_feature_of_the_seed_has_a_row(seed: Path, page: str) -> None:
    text = seed.read_text()
    listed = re.findall(r"^(?:- |\d+\. (?!\[))(.+)$", text, re.MULTILINE)
    assert len(listed) > 80
    assert {BY_HAND.sub("", item).strip() for item in listed} == set(table(page, "Features"))


def test_every_table_of_numbers_has_a_row(seed: Path, page: str) -> None:
    titles = re.findall(r"^### (.+)\n\n\|", seed.read_text(), re.MULTILINE)
    assert set(titles) == set(table(page, "Numbers"))


def test_every_row_says_where_it_is_and_who_proves_it(checkout: Path, page: str) -> None:
    wrong = []
    for item, (here, proof, state) in everything(page).items():
        word, _, reason = state.partition(":")
        paths, tests = re.findall(r"`([^`]+)`", here), re.findall(r"`([^`]+)`", proof)
        if word not in STATES:
            wrong.append(f"{item}: state {state!r}")
        if word in {"deviates", "partly"} and not reason:
            wrong.append(f"{item}: {word} needs a reason")
        if word in {"done", "partly"} and not tests:
            wrong.append(f"{item}: {word} needs a test")
        if word == "later" and (paths or tests):
            wrong.append(f"{item}: what comes later is nowhere yet")
        wrong += [f"{item}: {path} does not exist" for path in paths if not (checkout / path).exists()]
        wrong += [f"{item}: {test} does not exist" for test in tests if not _exists(checkout, test)]
    assert wrong == []


def _exists(checkout: Path, name: str) -> bool:
    file, _, function = name.partition("::")
    path = checkout / file
    return path.is_file() and (not function or f"def {function}(" in path.read_text())


def test_done_commands_are_run_by_their_test(checkout: Path, page: str) -> None:
    unseen = []
    for command, (proof, state) in table(page, "Commands").items():
        if state.startswith("done"):
            file = re.findall(r"`([^`:]+)", proof)[0]
            text = re.sub(r"\s+", " ", (checkout / file).read_text().replace("\\\\\n", " "))
            if command.strip("`") not in text:
                unseen.append(f"{command} is not in {file}")
    assert unseen == []


def test_commands_of_our_documents_are_seen_somewhere(checkout: Path, page: str) -> None:
    own = page.split("## Commands", 1)[1].split("## Features", 1)[0].rsplit("\n\n|", 1)[1]
    for place in re.findall(r"`((?:tests/|\.ci/)[^`]*)`", own):
        assert (checkout / place).exists(), place


def test_the_licence_is_mit(checkout: Path) -> None:
    assert (checkout / "LICENSE").read_text().startswith("MIT License")
