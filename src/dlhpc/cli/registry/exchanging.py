"""`dlhpc registry push` and `pull`: versions from one place to another."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from dlhpc.cli.output import print_json
from dlhpc.cli.registry.options import REFERENCES, common
from dlhpc.cli.registry.reading import version_json

if TYPE_CHECKING:
    from dlhpc.registry.progress import Progress

_TRAVELS = """\b
A version keeps its digest wherever it goes, and its tags go with it. Labels,
aliases, notes and history belong to each registry and stay there. What the
other side has already is not sent again; both sides are hashed."""


@click.command(
    epilog=f"""\b
Examples:
  dlhpc registry push digits-mlp@production /mnt/models
  dlhpc registry push digits-mlp:3 /mnt/models --name digits --alias candidate
  dlhpc registry push digits-mlp mlflow+http://127.0.0.1:5000

{_TRAVELS}

{REFERENCES}"""
)
@click.argument("ref")
@click.argument("target")
@click.option("--name", help="Name there; by default the one in REF.")
@click.option("--alias", help="Alias to set there, when all has arrived.")
@click.option("--note", default="", help="Why; kept in the history there.")
@common
def push(ref: str, target: str, name: str | None, alias: str | None, note: str, root: str, as_json: bool) -> None:
    """Copy the version REF to the registry at TARGET."""
    _copy(str(root), target, ref, name, alias, note, as_json)


@click.command(
    epilog=f"""\b
Examples:
  dlhpc registry pull /mnt/models digits-mlp@production
  dlhpc registry pull /mnt/models digits-mlp:3 --alias candidate --json
  dlhpc registry pull mlflow+http://127.0.0.1:5000 digits-mlp@production

{_TRAVELS}

{REFERENCES}"""
)
@click.argument("source")
@click.argument("ref")
@click.option("--name", help="Name here; by default the one in REF.")
@click.option("--alias", help="Alias to set here, when all has arrived.")
@click.option("--note", default="", help="Why; kept in the history here.")
@common
def pull(source: str, ref: str, name: str | None, alias: str | None, note: str, root: str, as_json: bool) -> None:
    """Copy the version REF of the registry at SOURCE to this one."""
    _copy(source, str(root), ref, name, alias, note, as_json)


def _copy(source: str, target: str, ref: str, name: str | None, alias: str | None, note: str, as_json: bool) -> None:
    from dlhpc.api import open_store
    from dlhpc.registry.exchange import copy

    with byte_bar() as progress:
        version = copy(
            open_store(source), open_store(target), ref, name=name, alias=alias, note=note, progress=progress
        )
    if as_json:
        print_json({"source": source, "target": target, **version_json(version)})
    else:
        named = "".join(f", {version.name}@{alias}" for alias in version.aliases)
        click.echo(f"{ref} of {source} is {version.ref}{named} in {target} (sha256:{version.digest})")


@contextmanager
def byte_bar() -> Iterator[Progress]:
    """A bar of bytes on stderr for each step, when somebody can see it."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TaskID, TextColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        tasks: dict[str, TaskID] = {}

        def progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)

        yield progress
