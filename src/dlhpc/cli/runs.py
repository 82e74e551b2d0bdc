"""`dlhpc runs`: what was trained, and what came of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dlhpc.cli.output import console, print_json, table
from dlhpc.errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from dlhpc.training.run_folder import RunSummary

LAST_ROWS = 10

runs_dir = click.option("--dir", "folder", type=click.Path(path_type=Path), default=Path("runs"), show_default=True,
                        help="Where the run folders are.")  # fmt: skip
as_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(
    "runs",
    epilog="""\b
Examples:
  dlhpc runs list
  dlhpc runs show latest
  dlhpc runs show digits-mlp-2026 --plot history.png""",
)
def command() -> None:
    """List the training runs and what came of them."""


@command.command("list")
@runs_dir
@as_json_option
def list_runs(folder: Path, as_json: bool) -> None:
    """List the runs, oldest first."""
    from dlhpc.training.run_folder import list_paths, summarize

    found = []
    for path in list_paths(folder):
        try:
            found.append(summarize(path))
        except UsageError as error:  # written by another version: no reason to hide the others
            click.echo(f"left out: {error}", err=True)
    if as_json:
        print_json([{**asdict(run), "path": str(run.path)} for run in found])
        return
    if not found:
        click.echo(f"no run in {folder}; `dlhpc train` makes one", err=True)
        return
    shown = table("run", "model", "data", "status", "steps", "accuracy", "seconds",
                  right=("steps", "accuracy", "seconds"))  # fmt: skip
    for run in found:
        accuracy = "" if run.accuracy is None else f"{run.accuracy:.4f}"
        shown.add_row(run.name, run.model, run.data, run.status, str(run.step), accuracy, f"{run.seconds:.1f}")
    console().print(shown)


@command.command("show")
@click.argument("reference", metavar="RUN")
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.png",
    help="Also draw loss and accuracy over the epochs.",
)
@runs_dir
@as_json_option
def show_run(reference: str, plot: Path | None, folder: Path, as_json: bool) -> None:
    """Show one run: its folder, the beginning of its name, or `latest`."""
    from dlhpc.training.history import read_history
    from dlhpc.training.history_plot import draw_history
    from dlhpc.training.run_folder import find_run, read_result, read_run, summarize

    path = find_run(reference, folder)
    summary, rows, result = summarize(path), read_history(path), read_result(path)
    if plot is not None:
        draw_history(rows, summary.name, plot)
    if as_json:
        facts = {**asdict(summary), "path": str(path)}
        print_json({**facts, "run": read_run(path).canonical(), "history": rows, "result": result})
        return
    for name, text in _facts(summary, result):
        click.echo(f"{name + ':':<12}{text}")
    if plot is not None:
        click.echo(f"{'picture:':<12}{plot}")
    if rows:
        click.echo()
        console().print(_last(rows))


def _facts(summary: RunSummary, result: dict[str, Any] | None) -> Iterator[tuple[str, str]]:
    yield "run", str(summary.path)
    yield "model", f"{summary.model} on {summary.data}"
    yield "status", f"{summary.status}, {summary.step} steps in {summary.seconds:.1f} s of {summary.epochs} epochs"
    if summary.accuracy is not None:
        yield "validation", f"best accuracy {summary.accuracy:.4f}"
    if summary.status == "interrupted":
        yield "go on", f"dlhpc train --resume {summary.path}"
    if result is not None:
        published = result["reference"]
        yield "published", "no" if published is None else f"{published} in {result['registry']}"
        yield "digest", result["digest"]


def _last(rows: list[dict[str, Any]]) -> Table:
    """The end of the history."""
    shown = table("epoch", "step", "part", "loss", "accuracy", right=("epoch", "step", "loss", "accuracy"))
    for row in rows[-LAST_ROWS:]:
        loss, accuracy = ("" if row[name] is None else f"{row[name]:.4f}" for name in ("loss", "accuracy"))
        shown.add_row(f"{row['epoch']:.2f}", str(row["step"]), row["part"], loss, accuracy)
    return shown
