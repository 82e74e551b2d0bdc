"""The history of a run: one row per log line or evaluation, in history.jsonl and history.csv.

Rows are flushed as they come, so a killed run loses none. When a run goes on from a checkpoint, the rows after it are
cut off first: each step then has its row once.
"""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any, TextIO

from dlhpc.files import write_atomic
from dlhpc.training.events import Evaluated, Finished, Logged, Started

COLUMNS = (
    "step",
    "epoch",
    "part",
    "loss",
    "accuracy",
    "learning_rate",
    "examples_per_second",
    "seconds",
    "non_finite_steps",
)
"""`part` is train or validation; learning_rate, examples_per_second and non_finite_steps are empty for validation."""

Row = dict[str, Any]


class History:
    """A callback that writes the rows into a run's folder."""

    wants = (Started, Logged, Evaluated, Finished)

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: tuple[TextIO, TextIO] | None = None

    def __call__(self, event: Started | Logged | Evaluated | Finished) -> None:
        match event:
            case Started(step=step):
                self._open(step)
            case Logged():
                self._write(event, "train", event.learning_rate, event.examples_per_second, event.non_finite_steps)
            case Evaluated():
                self._write(event, "validation", None, None, None)
            case Finished():
                self.close()

    def close(self) -> None:
        """Close the files; more than once does no harm."""
        for file in self._files or ():
            file.close()
        self._files = None

    def _open(self, step: int) -> None:
        kept = [row for row in read_history(self._folder) if row["step"] <= step]
        write_atomic(self._folder / "history.jsonl", "".join(map(_json_line, kept)))
        write_atomic(self._folder / "history.csv", _csv_lines([dict(zip(COLUMNS, COLUMNS, strict=True)), *kept]))
        self._files = (
            (self._folder / "history.jsonl").open("a", encoding="utf-8"),
            (self._folder / "history.csv").open("a", encoding="utf-8", newline=""),
        )

    def _write(
        self, event: Logged | Evaluated, part: str, rate: float | None, speed: float | None, non_finite: int | None
    ) -> None:
        values = (event.step, event.epoch, part, event.loss, event.accuracy, rate, speed, event.seconds, non_finite)
        row = dict(zip(COLUMNS, values, strict=True))
        for file, text in zip(self._files or (), (_json_line(row), _csv_lines([row])), strict=False):
            file.write(text)
            file.flush()


def read_history(folder: Path) -> list[Row]:
    """The rows so far; none when there is no history yet. A last line that a kill cut short is left out."""
    try:
        lines = (folder / "history.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _json_line(row: Row) -> str:
    finite = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()
    }
    return json.dumps(finite, allow_nan=False) + "\n"


def _csv_lines(rows: list[Row]) -> str:
    text = io.StringIO()
    csv.DictWriter(text, COLUMNS, lineterminator="\n").writerows(rows)
    return text.getvalue()
