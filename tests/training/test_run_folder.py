"""Run folders: made, found, locked, summed up."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from dlhpc.errors import ConflictError, NotFoundError, UsageError
from dlhpc.spec.run import RunSpec
from dlhpc.training.checkpoint import Moment
from dlhpc.training.events import Evaluated, Logged, Started
from dlhpc.training.history import History
from dlhpc.training.run_folder import (
    find_checkpoint,
    find_run,
    list_paths,
    locked,
    new_run_folder,
    read_result,
    read_run,
    summarize,
    write_result,
    write_run,
)
from tests.training.softmax import make_run, make_store


def make_folder(hour: int, name: str | None = None, run: RunSpec | None = None) -> Path:
    run = (run or make_run()).model_copy(update={"name": name, "runs_dir": Path("runs")})
    folder = new_run_folder(run, datetime(2026, 1, 2, hour, tzinfo=UTC))
    write_run(folder, run)
    return folder


def test_a_folder_is_named_after_the_run_and_the_time() -> None:
    folder = make_folder(3)
    assert folder.parent == Path("runs")
    assert folder.name.startswith("synthetic-mlp-20260102T030000Z-")
    assert len(folder.name.rpartition("-")[2]) == 4
    assert read_run(folder).data == make_run().data
    assert make_folder(3) != folder


def test_runs_are_found_by_path_name_beginning_and_as_the_latest() -> None:
    late, early = make_folder(9, "a"), make_folder(1, "z")
    assert list_paths(Path("runs")) == [early, late]
    assert find_run("latest", Path("runs")) == late
    assert find_run(str(early), Path("elsewhere")) == early
    assert find_run(early.name, Path("runs")) == early
    assert find_run("z-2026", Path("runs")) == early
    make_folder(2, "z")
    with pytest.raises(UsageError, match="means 2 runs"):
        find_run("z-", Path("runs"))
    with pytest.raises(NotFoundError, match="no such run"):
        find_run("nothing", Path("runs"))
    with pytest.raises(NotFoundError, match="no run yet"):
        find_run("latest", Path("empty"))


def test_other_folders_are_no_runs() -> None:
    Path("runs/other").mkdir(parents=True)
    assert list_paths(Path("runs")) == []
    with pytest.raises(NotFoundError, match=r"no run\.json"):
        read_run(Path("runs/other"))
    Path("runs/other/run.json").write_text('{"seed": -1}')
    with pytest.raises(UsageError, match="not a run that this version"):
        read_run(Path("runs/other"))


def test_the_checkpoint_of_a_run_is_its_last() -> None:
    folder = make_folder(1)
    with pytest.raises(NotFoundError, match="no checkpoint"):
        find_checkpoint(folder)
    store = make_store(folder / "checkpoints", make_run())
    paths = [store.write("training", Moment(step, 1.0, None), {}) for step in (7, 14)]
    assert find_checkpoint(folder) == paths[1]
    assert find_checkpoint(paths[0]) == paths[0]


def test_a_folder_is_locked_for_one_process() -> None:
    folder = make_folder(1)
    with locked(folder), pytest.raises(ConflictError, match="another process is training this run"), locked(folder):
        pytest.fail("locked twice")
    with locked(folder):
        assert summarize(folder).status == "running"
    assert summarize(folder).status == "interrupted"


def test_a_summary_reads_history_and_result() -> None:
    folder = make_folder(1, run=make_run(num_epochs=4))
    empty = summarize(folder)
    assert (empty.step, empty.accuracy, empty.seconds) == (0, None, 0.0)
    history = History(folder)
    history(Started(0, 28, 7, 4, 0, 1))
    history(Logged(7, 1.0, 0.5, 0.5, 0.1, 100.0, 3.0, None))
    history(Evaluated(7, 1.0, 0.5, 0.875, 8, 4.0, True))
    history(Evaluated(14, 2.0, 0.5, 0.75, 8, 9.0, False))
    history.close()
    assert read_result(folder) is None
    write_result(folder, {"digest": "abc"})
    assert read_result(folder) == {"digest": "abc"}
    found = summarize(folder)
    assert (found.name, found.status, found.step, found.epochs) == (folder.name, "finished", 14, 4)
    assert (found.accuracy, found.seconds) == (0.875, 9.0)
    assert (found.model, found.data) == ("FlaxMLP", "synthetic")
