"""`dlhpc registry`: published models: list, find, measure, compare, name, tag, promote, verify, sweep."""

from __future__ import annotations

import click

from dlhpc.cli.registry.comparing import diff, search
from dlhpc.cli.registry.deriving import derive, derived
from dlhpc.cli.registry.exchanging import pull, push
from dlhpc.cli.registry.importing import export, import_command, publish
from dlhpc.cli.registry.measuring import benchmark, benchmarks
from dlhpc.cli.registry.naming import alias, history, note, tag
from dlhpc.cli.registry.options import REFERENCES
from dlhpc.cli.registry.promoting import compare, promote
from dlhpc.cli.registry.reading import get, list_command, show
from dlhpc.cli.registry.signing import keygen, sign
from dlhpc.cli.registry.upkeep import fsck, gc, verify


@click.group(
    epilog=f"""{REFERENCES}

\b
Examples:
  dlhpc registry list
  dlhpc registry alias digits-mlp production digits-mlp:3
  dlhpc registry search 'accuracy>=0.98' tag.stage=gold
  dlhpc registry promote digits-mlp@candidate production""",
    commands=[
        *(list_command, show, search, diff, get),
        *(derive, derived),
        *(benchmark, benchmarks, compare, promote),
        *(alias, tag, note, history),
        *(keygen, sign, verify, fsck, gc, push, pull),
        *(publish, export, import_command),
    ],
)
def command() -> None:
    """List, find, measure, compare, copy, name, tag, promote, sign and verify published models."""
