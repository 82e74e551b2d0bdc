"""`dlhpc runs`: what was trained, and what came of it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from PIL import Image

from dlhpc.cli.main import main
from dlhpc.training.events import Evaluated, Finished, Logged, Started
from dlhpc.training.history import History
from dlhpc.training.run_folder import new_run_folder, write_result, write_run
from tests.training.softmax import make_run


def make_folder(hour: int, *, finished: bool) -> Path:
    """A run folder as training leaves it."""
    run = make_run()
    folder = new_run_folder(run, datetime(2026, 1, 2, hour, tzinfo=UTC))
    write_run(folder, run)
    history = History(folder)
    history(Started(0, 21, 7, 3, 0, 1))
    for epoch in (1, 2, 3):
        step = 7 * epoch
        loss = float("nan") if epoch == 2 else 1.0 / epoch
        history(Logged(step, epoch, loss, 0.5 + epoch / 10, 0.1, 100.0, 3.0 * epoch, None))
        history(Evaluated(step, epoch, 1.1 / epoch, 0.4 + epoch / 10, 17, 3.5 * epoch, True))
    history(Finished(21, 10.5, None))
    if finished:
        write_result(folder, {"reference": "synthetic-mlp:1", "registry": "registry", "digest": "ab" * 32})
    return folder


def test_list_shows_each_run_on_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    late, early = make_folder(9, finished=False), make_folder(1, finished=True)
    assert main(["runs", "list"]) == 0
    _, first, second = capsys.readouterr().out.splitlines()
    assert first.split() == [early.name, "FlaxMLP", "synthetic", "finished", "21", "0.7000", "10.5"]
    assert second.split()[:4] == [late.name, "FlaxMLP", "synthetic", "interrupted"]


def test_a_run_of_another_version_hides_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    folder, other = make_folder(1, finished=True), make_folder(2, finished=True)
    (other / "run.json").write_text('{"unheard": "of"}')
    assert main(["runs", "list"]) == 0
    captured = capsys.readouterr()
    assert folder.name in captured.out
    assert other.name not in captured.out
    assert f"left out: {other / 'run.json'}" in captured.err


def test_list_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_folder(1, finished=True)
    assert main(["runs", "list", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["path"], found["status"], found["accuracy"]) == (str(folder), "finished", pytest.approx(0.7))


def test_without_runs_the_list_is_empty(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "list", "--dir", "elsewhere"]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "no run in elsewhere" in captured.err
    assert main(["runs", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_show_a_finished_run(capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_folder(1, finished=True)
    assert main(["runs", "show", "latest"]) == 0
    out = capsys.readouterr().out
    facts = dict(line.split(":", 1) for line in out.partition("\n\n")[0].splitlines())
    assert facts["run"].strip() == str(folder)
    assert facts["published"].strip() == "synthetic-mlp:1 in registry"
    assert facts["validation"].strip() == "best accuracy 0.7000"
    assert "go on" not in facts
    last = out.splitlines()[-1].split()
    assert last == ["3.00", "21", "validation", "0.3667", "0.7000"]


def test_show_an_interrupted_run_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_folder(1, finished=False)
    assert main(["runs", "show", folder.name]) == 0
    assert f"dlhpc train --resume {folder}" in capsys.readouterr().out


def test_show_a_run_that_has_no_history_yet(capsys: pytest.CaptureFixture[str]) -> None:
    folder = new_run_folder(make_run())
    write_run(folder, make_run())
    assert main(["runs", "show", "latest", "--plot", "empty.png"]) == 0
    assert "0 steps" in capsys.readouterr().out


def test_show_as_json_with_a_picture(capsys: pytest.CaptureFixture[str]) -> None:
    make_folder(1, finished=True)
    assert main(["runs", "show", "latest", "--json", "--plot", "pictures/history.png"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["history"]) == 6
    assert found["run"]["training"]["num_epochs"] == 3
    assert found["result"]["digest"] == "ab" * 32
    with Image.open("pictures/history.png") as picture:
        assert picture.size[0] > 500
        assert len(picture.convert("RGB").getcolors(100_000)) > 10


def test_show_what_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "show", "nothing"]) == 4
    assert "no such run" in capsys.readouterr().err
