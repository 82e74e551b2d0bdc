"""Run folders: runs/<name>-<UTC time>-<4 hex>/ with everything that a run leaves behind.

run.json                     the resolved spec
history.csv, history.jsonl   one row per log line and evaluation
checkpoints/                 see checkpoint.py
result.json                  what came of it; absent until the run has finished
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from dlhpc.errors import ConflictError, NotFoundError, UsageError
from dlhpc.files import write_atomic
from dlhpc.spec.run import RunSpec
from dlhpc.training.checkpoint import find_last
from dlhpc.training.history import read_history

CHECKPOINTS = "checkpoints"
Status = Literal["finished", "running", "interrupted"]


@dataclass(frozen=True)
class RunSummary:
    """One line of `dlhpc runs list`."""

    name: str
    """The folder's name."""
    path: Path
    model: str
    """FlaxMLP, TorchDeepSpeedCNN, ..."""
    data: str
    """The data source."""
    status: Status
    step: int
    """Steps in the history."""
    epochs: int
    """Epochs asked for."""
    accuracy: float | None
    """Best validation accuracy so far."""
    seconds: float
    """Time spent training so far."""


def new_run_folder(run: RunSpec, now: datetime | None = None) -> Path:
    """Make the folder of a new run."""
    stamp = (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")
    path = run.runs_dir / f"{run.resolved_name}-{stamp}-{secrets.token_hex(2)}"
    path.mkdir(parents=True)
    return path


def write_run(path: Path, run: RunSpec) -> None:
    """Write run.json: from then on the folder is a run."""
    write_atomic(path / "run.json", json.dumps(run.canonical(), indent=2, ensure_ascii=False) + "\n")


def read_run(path: Path) -> RunSpec:
    """The spec of a run folder."""
    try:
        return RunSpec.model_validate_json((path / "run.json").read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(f"{path}: not a run folder (it has no run.json); `dlhpc runs list` shows them") from None
    except ValidationError as error:
        raise UsageError(f"{path / 'run.json'}: not a run that this version of dlhpc can read: {error}") from None


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Mark a run as finished."""
    write_atomic(path / "result.json", json.dumps(result, indent=2, ensure_ascii=False) + "\n")


def read_result(path: Path) -> dict[str, Any] | None:
    """What came of a run; None while it has not finished."""
    try:
        result: dict[str, Any] = json.loads((path / "result.json").read_bytes())
    except FileNotFoundError:
        return None
    return result


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a run folder; ConflictError when another process trains in it. The lock ends with the process."""
    with (path / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConflictError(f"{path}: another process is training this run; wait for it, or stop it") from None
        yield


def find_run(reference: str, runs_dir: Path) -> Path:
    """The folder that `reference` means: a path, a folder's name (or its beginning) in `runs_dir`, or `latest`."""
    if (Path(reference) / "run.json").exists():
        return Path(reference)
    paths = list_paths(runs_dir)
    if reference == "latest":
        if not paths:
            raise NotFoundError(f"{runs_dir}: no run yet; `dlhpc train` makes one")
        return paths[-1]
    found = [path for path in paths if path.name.startswith(reference)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(f"{reference!r} means {len(found)} runs: {', '.join(path.name for path in found)}; say more")
    raise NotFoundError(f"{reference!r}: no such run in {runs_dir}; `dlhpc runs list` shows them")


def find_checkpoint(path: Path) -> Path:
    """The checkpoint to go on from: the path itself when it is one, else the newest of a run folder."""
    if (path / "run.json").exists():
        return find_last(path / CHECKPOINTS)
    return path


def run_of(checkpoint: Path) -> Path:
    """The run folder that a checkpoint belongs to."""
    return Path(os.path.normpath(checkpoint / ".." / ".."))


def list_paths(runs_dir: Path) -> list[Path]:
    """Every run folder, oldest first (by the time in its name)."""
    paths = [file.parent for file in runs_dir.glob("*/run.json")]
    return sorted(paths, key=lambda path: (path.name.rsplit("-", 2)[1:], path.name))


def summarize(path: Path) -> RunSummary:
    """The facts about a run that fit on a line."""
    run, rows = read_run(path), read_history(path)
    scores = [row["accuracy"] for row in rows if row["part"] == "validation"]
    return RunSummary(
        name=path.name,
        path=path,
        model=run.model_name,
        data=run.data.source,
        status=_status(path),
        step=rows[-1]["step"] if rows else 0,
        epochs=run.training.num_epochs,
        accuracy=max(scores, default=None),
        seconds=rows[-1]["seconds"] if rows else 0.0,
    )


def _status(path: Path) -> Status:
    if (path / "result.json").exists():
        return "finished"
    try:
        with locked(path):
            return "interrupted"
    except ConflictError:
        return "running"
