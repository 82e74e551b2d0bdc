"""Rows that are kept while the work goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from dlhpc.cli.results import Prediction, Results
from dlhpc.errors import ConflictError, UsageError

GOOD = Prediction("a.png", 'a "label",\nin two lines', 0.1 + 0.2, "m:1", None)
BAD = Prediction("b.png", None, None, None, "no image")
ORDER = [Path("b.png"), Path("a.png")]


def stopped(*rows: Prediction) -> Path:
    """What a run leaves that was stopped after these rows."""
    with Results(Path("out.csv"), resume=False) as results:
        for row in rows:
            results.add(row)
    return Path("out.csv.partial")


def test_a_file_appears_when_it_is_whole_and_in_order() -> None:
    with Results(Path("new/out.csv"), resume=False) as results:
        results.add(GOOD)
        assert not Path("new/out.csv").exists()
        assert "a.png" in Path("new/out.csv.partial").read_text()
        results.add(BAD)
        assert results.finish(ORDER) == [BAD, GOOD]
    assert [path.name for path in Path("new").iterdir()] == ["out.csv"]
    assert Path("new/out.csv").read_text().startswith("file,label,probability,model,error\nb.png,")


@pytest.mark.parametrize("torn", ["", "c.png,half a r", "\n", "c.png,1\n"])
def test_what_is_whole_is_gone_on_with_and_what_failed_is_asked_again(torn: str) -> None:
    partial = stopped(GOOD, BAD)
    partial.write_text(partial.read_text() + torn)
    with Results(Path("out.csv"), resume=True) as results:
        assert [results.is_done(path) for path in ORDER] == [False, True]
        assert results.where(ORDER) == (
            "1 of 2 files are done, in out.csv.partial: the same command with --resume goes on"
        )
        again = Prediction("b.png", "b", 0.5, "m:2", None)
        results.add(again)
        assert results.finish(ORDER) == [again, GOOD]
    with Results(Path("out.csv"), resume=True) as results:  # a whole file is gone on with when there are more files
        assert all(map(results.is_done, ORDER))
        assert results.finish(ORDER[1:]) == [GOOD]


def test_what_another_run_left_is_not_overwritten() -> None:
    partial = stopped(GOOD)
    before = partial.read_text()
    with pytest.raises(ConflictError, match=r"out\.csv\.partial holds 1 rows .* --resume, or remove it"):
        Results(Path("out.csv"), resume=False)
    assert partial.read_text() == before


def test_a_file_of_something_else_is_not_gone_on_with() -> None:
    Path("out.csv").write_text("name,age\n")
    with pytest.raises(ConflictError, match="no file of `dlhpc predict`"):
        Results(Path("out.csv"), resume=True)
    assert Path("out.csv").read_text() == "name,age\n"


def test_without_a_file_rows_are_in_memory_alone() -> None:
    with pytest.raises(UsageError, match="--out"):
        Results(None, resume=True)
    with Results(None, resume=False) as results:
        results.add(GOOD)
        assert "1 of 2 files are done and lost" in results.where(ORDER)
        results.add(BAD)
        assert results.finish(ORDER) == [BAD, GOOD]
    assert list(Path().iterdir()) == []
