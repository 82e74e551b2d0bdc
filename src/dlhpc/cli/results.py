"""Predictions of many files, in a CSV file that is whole or absent, and can be gone on with after an interruption."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from dlhpc.errors import ConflictError, UsageError
from dlhpc.files import write_atomic


@dataclass(frozen=True)
class Prediction:
    """What came of one file: a class, or an error."""

    file: str
    label: str | None
    probability: float | None
    model: str | None
    error: str | None


COLUMNS = tuple(field.name for field in fields(Prediction))


class Results:
    """The rows of `out`, in memory alone where it is None.

    While the work goes on they are kept beside it, in `<out>.partial`, each as soon as it is known. Use it as a context
    manager; `finish` makes `out` of them.
    """

    def __init__(self, out: Path | None, *, resume: bool) -> None:
        """With `resume` rows without an error are taken from an earlier run: its partial file or else its whole one.

        Raises ConflictError when there is a partial file and `resume` is not wanted, UsageError when there is no `out`.
        """
        self._out = out
        self._rows: dict[str, Prediction] = {}
        self._file: TextIO | None = None
        if out is None:
            if resume:
                raise UsageError("--resume goes on with a file: name it with --out")
            return
        self._partial = out.with_name(f"{out.name}.partial")
        if self._partial.exists() and not resume:
            raise ConflictError(
                f"{self._partial} holds {len(_read(self._partial))} rows of a run that did not end: "
                "go on with --resume, or remove it"
            )
        if resume:
            earlier = _read(self._partial if self._partial.exists() else out)
            self._rows = {row.file: row for row in earlier if row.error is None}

    def is_done(self, path: Path) -> bool:
        """Whether a row of this file is there."""
        return str(path) in self._rows

    def __enter__(self) -> Self:
        if self._out is not None:
            write_atomic(self._partial, _text(self._rows.values()))
            self._file = self._partial.open("a", newline="")
        return self

    def add(self, row: Prediction) -> None:
        """Keep a row."""
        self._rows[row.file] = row
        if self._file is not None:
            self._file.write(_line(row))
            self._file.flush()

    def finish(self, order: Sequence[Path]) -> list[Prediction]:
        """The rows of these files in their order, which also are in `out` now."""
        rows = [self._rows[str(path)] for path in order]
        if self._out is not None:
            write_atomic(self._out, _text(rows))
            self._partial.unlink()
        return rows

    def where(self, order: Sequence[Path]) -> str:
        """What a user is told when the work ends before it is done."""
        done = f"{sum(self.is_done(path) for path in order)} of {len(order)} files are done"
        if self._out is None:
            return f"{done} and lost: --out FILE.csv would keep them"
        return f"{done}, in {self._partial}: the same command with --resume goes on"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()


def _line(row: Prediction) -> str:
    text = io.StringIO()
    csv.DictWriter(text, COLUMNS, lineterminator="\n").writerow(asdict(row))
    return text.getvalue()


def _text(rows: Iterable[Prediction]) -> str:
    return ",".join(COLUMNS) + "\n" + "".join(map(_line, rows))


def _read(path: Path) -> list[Prediction]:
    """The whole rows of a file; none where there is no file."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return []
    lines = csv.reader(io.StringIO(text[: text.rfind("\n") + 1]))
    if tuple(next(lines, ())) != COLUMNS:
        raise ConflictError(
            f"{path}: is no file of `dlhpc predict`, whose columns are {', '.join(COLUMNS)}: name another"
        )
    whole = [line for line in lines if len(line) == len(COLUMNS)]
    return [
        Prediction(file, label or None, float(probability) if probability else None, model or None, error or None)
        for file, label, probability, model, error in whole
    ]
