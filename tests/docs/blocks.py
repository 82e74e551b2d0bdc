"""The fenced blocks of a document, and how each is checked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

KINDS = {
    "bash": "run, in the default group",
    "bash slow": "run, in the slow group",
    "bash server": "run in the background until the document ends",
    "bash slow server": "the same, in the slow group",
    "bash elsewhere": "not run here; another place says where, line by line",
    "python": "run, in the default group",
    "python slow": "run, in the slow group",
    "yaml": "a whole run that `dlhpc config check` accepts",
    "json": "parsed",
    "text": "not checked",
}
FENCE = re.compile(r"^```(?P<kind>[^\n`]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    document: str
    line: int
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


def blocks(path: Path) -> list[Block]:
    """The fenced blocks of a Markdown file, in order."""
    content = path.read_text()
    return [
        Block(path.name, content.count("\n", 0, found.start()) + 1, found["kind"].strip(), found["text"])
        for found in FENCE.finditer(content)
    ]


def command_lines(text: str) -> list[str]:
    """The commands of a shell block: continued lines joined, comments left out."""
    joined = text.replace("\\\n", " ")
    lines = [re.sub(r"\s+#\s.*$", "", line).strip() for line in joined.splitlines()]
    return [re.sub(r"\s+", " ", line) for line in lines if line and not line.startswith("#")]
