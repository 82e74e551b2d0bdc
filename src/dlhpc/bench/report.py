"""Results as files, and files as a page."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dlhpc.bench.inference import InferenceResult
from dlhpc.bench.loop import LoopResult
from dlhpc.bench.machine import describe
from dlhpc.bench.optimizers import OptimizerResult
from dlhpc.bench.serving import AnyResult
from dlhpc.errors import NotFoundError
from dlhpc.files import write_atomic

Result = LoopResult | InferenceResult | OptimizerResult | AnyResult


def save(suite: str, command: str, results: Sequence[Result], folder: Path, more: str = "") -> Path:
    """Write `<folder>/<suite>.json`: the command, the machine and the numbers; `more` are versions of what else ran."""
    path = folder / f"{suite}.json"
    machine = {**describe(), **({"beside": more} if more else {})}
    content = {"suite": suite, "command": command, "machine": machine, "results": [asdict(r) for r in results]}
    write_atomic(path, json.dumps(content, indent=2) + "\n")
    return path


def page(folder: Path) -> str:
    """Markdown with one table per result file. Raises NotFoundError when there is none."""
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise NotFoundError(f"{folder}: no results; run `python benchmarks/run_benchmarks.py` first")
    sections = [_section(json.loads(path.read_text())) for path in paths]
    return "# Benchmarks\n\nMade by `python benchmarks/generate_report.py`.\n\n" + "\n".join(sections)


def _section(content: dict[str, Any]) -> str:
    machine = ", ".join(f"{key} {value}" for key, value in content["machine"].items())
    rows = [
        {k: v for k, v in row.items() if not isinstance(v, list) or k == "hidden_sizes"} for row in content["results"]
    ]
    lines = [f"## {content['suite']}", "", f"`{content['command']}`", "", machine, ""]
    for _, alike in itertools.groupby(rows, tuple):  # rows of one kind make a table
        lines += [*_table(list(alike)), ""]
    return "\n".join(lines)


def _table(rows: list[dict[str, Any]]) -> list[str]:
    head = list(rows[0])
    body = ["| " + " | ".join("" if row[key] is None else str(row[key]) for key in head) + " |" for row in rows]
    return ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head), *body]
