"""What the verbs of `dlhpc registry` share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dlhpc.cli.locations import HELP, LOCATION

if TYPE_CHECKING:
    from dlhpc.api import Registry

F = TypeVar("F", bound=Callable[..., Any])

REFERENCES = """\b
References:
  digits-mlp               the newest version
  digits-mlp:3             version 3
  digits-mlp@production    where the alias points
  sha256:5f0c2a9e          the version itself, by 8 or more digits of its digest"""


def common(function: F) -> F:
    """The options --registry and --json."""
    function = click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)
    return click.option(
        "--registry",
        "root",
        type=LOCATION,
        default="registry",
        show_default=True,
        help=HELP,
    )(function)


def require_signature(function: F) -> F:
    """The option --require-signature."""
    return click.option(
        "--require-signature",
        "keys",
        multiple=True,
        type=click.Path(path_type=Path),
        metavar="KEY.pub",
        help="Refuse what this public key, or another that is given, has not signed; may be repeated.",
    )(function)


def open_registry(root: str) -> Registry:
    """The registry in a folder or at a URL."""
    from dlhpc.api import Registry

    return Registry(root)


def moment(at: str) -> str:
    """A time as people read it; UTC."""
    return at[:19].replace("T", " ")
