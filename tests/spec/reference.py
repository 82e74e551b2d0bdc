"""The tables of docs/configuration.md, made from the specs: `python tests/spec/reference.py` writes them anew."""

from __future__ import annotations

import re
from pathlib import Path

from dlhpc.spec.catalogue import REQUIRED, Key, catalogue
from dlhpc.spec.load import RUN, SERVING
from dlhpc.spec.support import RULES
from dlhpc.spec.write import flow

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def keys_table(keys: tuple[Key, ...]) -> str:
    """Every key in one Markdown table."""
    lines = ["| key | takes | default | meaning |", "|---|---|---|---|"]
    for key in keys:
        default = "" if key.kind == "section" else f"`{flow(key.default)}`"
        default = REQUIRED if key.default == REQUIRED else default
        only = f" *With {'; '.join(key.when)}.*" if key.when else ""
        lines.append(f"| `{key.path}` | {_cell(key.expected)} | {_cell(default)} | {_cell(key.help + only)} |")
    return "\n".join(lines)


def rules_list() -> str:
    """Every rule that joins settings."""
    return "\n".join(f"- {rule.statement}" for rule in RULES)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def page(text: str) -> str:
    """The page with its generated parts made anew."""
    parts = {
        "run-keys": keys_table(catalogue(RUN)),
        "serving-keys": keys_table(catalogue(SERVING)),
        "rules": rules_list(),
    }
    for name, part in parts.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
        text, count = pattern.subn(lambda match, part=part: f"{match[1]}{part}\n{match[2]}", text)
        assert count == 1, name
    return text


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
