"""History files: one row for each step that has one, whatever happened to the process."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from dlhpc.training.events import Evaluated, Finished, Logged, Started
from dlhpc.training.history import COLUMNS, History, read_history


def started(step: int) -> Started:
    return Started(step, 30, 10, 3, 0, 1)


def logged(step: int, loss: float = 0.5, non_finite: int = 0) -> Logged:
    return Logged(step, step / 10, loss, 0.75, 0.01, 123.5, 2.0, None, non_finite)


def evaluated(step: int) -> Evaluated:
    return Evaluated(step, step / 10, 0.6, 0.8, 20, 2.5, True)


def read_csv(folder: Path) -> list[dict[str, str]]:
    with (folder / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def steps(folder: Path) -> list[tuple[int, str]]:
    return [(row["step"], row["part"]) for row in read_history(folder)]


def test_rows_are_in_both_files_at_once(tmp_path: Path) -> None:
    history = History(tmp_path)
    history(started(0))
    history(logged(10, non_finite=3))
    history(evaluated(10))
    rows = read_history(tmp_path)
    assert rows == [
        dict(zip(COLUMNS, (10, 1.0, "train", 0.5, 0.75, 0.01, 123.5, 2.0, 3), strict=True)),
        dict(zip(COLUMNS, (10, 1.0, "validation", 0.6, 0.8, None, None, 2.5, None), strict=True)),
    ]
    shown = [{key: "" if value is None else str(value) for key, value in row.items()} for row in rows]
    assert read_csv(tmp_path) == shown
    history(Finished(10, 3.0, None))
    history.close()


def test_going_on_cuts_the_rows_after_the_checkpoint(tmp_path: Path) -> None:
    history = History(tmp_path)
    history(started(0))
    for step in (5, 10, 15, 20):
        history(logged(step))
    # No Finished: the process was killed, in the middle of a line.
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write('{"step": 25, "ep')
    history.close()
    again = History(tmp_path)
    again(started(10))
    again(logged(15))
    assert steps(tmp_path) == [(5, "train"), (10, "train"), (15, "train")]
    assert [row["step"] for row in read_csv(tmp_path)] == ["5", "10", "15"]
    again.close()


def test_a_loss_that_is_not_finite_is_null(tmp_path: Path) -> None:
    history = History(tmp_path)
    history(started(0))
    history(logged(5, float("nan")))
    history.close()
    line = (tmp_path / "history.jsonl").read_text()
    assert json.loads(line, parse_constant=pytest.fail)["loss"] is None


def test_a_history_from_before_a_column_goes_on(tmp_path: Path) -> None:
    row = dict(zip(COLUMNS[:-1], (5, 0.5, "train", 0.5, 0.75, 0.01, 123.5, 2.0), strict=True))
    (tmp_path / "history.jsonl").write_text(json.dumps(row) + "\n")
    history = History(tmp_path)
    history(started(5))
    history(logged(10))
    history.close()
    assert [line["non_finite_steps"] for line in read_csv(tmp_path)] == ["", "0"]


def test_no_history_yet(tmp_path: Path) -> None:
    assert read_history(tmp_path) == []
