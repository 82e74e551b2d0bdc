"""Every `dlhpc ...` that a document, a message or a help text shows names verbs and options that exist."""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from dlhpc.cli.main import VERBS, group

ROOT = Path(__file__).resolve().parents[2]
TEXTS = [
    *sorted(ROOT.glob("*.md")),
    *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob("config/*")),
    *sorted((ROOT / "src").rglob("*.py")),
]
MENTION = re.compile(r"(?:^\s*(?:\$ )?|[`'\"(]|: |\bor |\| )dlhpc ([a-z][^`\n]*)", re.MULTILINE)


def mentions(text: str) -> Iterator[list[str]]:
    """Words after `dlhpc` wherever a text shows a command line."""
    for found in MENTION.finditer(text):
        words = re.split(r"  +|[;|>#){[]|\\n|\. |, |\"|' |: ", found[1])[0].strip(" '\"")
        try:
            yield shlex.split(words)
        except ValueError:
            yield words.split()


def problem(words: list[str]) -> str | None:
    """What is wrong with a command line; None when its verbs and options exist."""
    command: click.Command = group
    for word in words:
        if word.startswith("-"):
            option = word.split("=")[0]
            known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
            if option not in known | {"--help", "-h", "--version"}:
                return f"no option {option}"
        elif isinstance(command, click.Group):
            inner = command.get_command(click.Context(command), word)
            if inner is None:
                return f"no command {word!r}"
            command = inner
    return None


@pytest.mark.parametrize(
    "path", [path for path in TEXTS if MENTION.search(path.read_text())], ids=lambda path: str(path.relative_to(ROOT))
)
def test_shown_commands_exist(path: Path) -> None:
    wrong = [
        f"dlhpc {' '.join(words)}: {found}"
        for words in mentions(path.read_text())
        if words and words[0] in VERBS and (found := problem(words))
    ]
    assert wrong == []


@pytest.mark.parametrize("verb", VERBS)
def test_help_texts_show_commands_that_exist(verb: str) -> None:
    command = importlib.import_module(f"dlhpc.cli.{verb}").command
    told = command.get_help(click.Context(command, info_name=f"dlhpc {verb}"))
    shown = [words for words in mentions(told) if words]
    assert shown, "no example"
    assert [f"{' '.join(words)}: {found}" for words in shown if (found := problem(words))] == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("run `dlhpc trian x` now", ["no command 'trian'"]),
        ("    dlhpc evaluate m --part test  # why", [None]),
        ("$ dlhpc registry aliases m", ["no command 'aliases'"]),
        ("go on with: dlhpc train --resumee x", ["no option --resumee"]),
        ("dlhpc train x --set a=b | tee log --not-ours", [None]),
    ],
)
def test_a_wrong_mention_is_seen(text: str, expected: list[str | None]) -> None:
    assert [problem(words) for words in mentions(text)] == expected
