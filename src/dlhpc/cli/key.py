"""`dlhpc key`: the API keys of a server."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dlhpc.cli.output import console, print_json, table
from dlhpc.errors import UsageError
from dlhpc.spec.api_key import SCOPES

if TYPE_CHECKING:
    from dlhpc.spec.api_key import ApiKey, Priority, Scope
    from dlhpc.spec.rates import RateSpec

Function = TypeVar("Function", bound=Callable[..., None])


def common(function: Function) -> Function:
    """Options of every verb here."""
    function = click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)
    return click.option(
        "--file",
        type=click.Path(path_type=Path, dir_okay=False),
        default=Path("keys.json"),
        show_default=True,
        help="File of keys.",
    )(function)


@click.group(
    epilog="""\b
Examples:
  dlhpc key add ci-runner
  dlhpc key add grafana --scope metrics
  dlhpc key list
  dlhpc key remove ci-runner
  dlhpc serve --set auth.keys=keys.json

\b
A running server notices a changed file within a second."""
)
def command() -> None:
    """Make, list and remove the API keys that `dlhpc serve --set auth.keys=FILE` asks for."""


@command.command(
    epilog="""\b
Examples:
  dlhpc key add ci-runner
  dlhpc key add grafana --scope metrics
  dlhpc key add nightly --low --per-second 5 --burst 20 --days 90

\b
The key is printed once and cannot be had again: its file holds a hash. Send it as
  curl -H "Authorization: Bearer $DLHPC_API_KEY" ..."""
)
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(SCOPES),
    default=("predict",),
    show_default=True,
    help="What the key admits to; may be repeated.",
)
@click.option("--low", is_flag=True, help="Its requests are the first to be refused when the server is busy.")
@click.option("--per-second", type=float, help="Requests a second, in place of rate_limits.per_client.")
@click.option("--burst", type=int, help="Requests at once; with --per-second.")
@click.option("--days", type=click.IntRange(1, 36500), help="Days until the key expires; never when absent.")
@common
def add(
    name: str,
    scopes: tuple[Scope, ...],
    low: bool,
    per_second: float | None,
    burst: int | None,
    days: int | None,
    file: Path,
    as_json: bool,
) -> None:
    """Make a key named NAME and print it."""
    from pydantic import ValidationError

    from dlhpc.serving.api_keys import add_key, new_key

    now = datetime.now(UTC)
    priority: Priority = "low" if low else "normal"
    expires = None if days is None else now.replace(microsecond=0) + timedelta(days=days)
    try:
        rate = _rate(per_second, burst)
        text, key = new_key(name, scopes, now, priority=priority, rate=rate, expires=expires)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        raise UsageError(f"{'.'.join(map(str, fault['loc']))}: {fault['input']!r} came: {fault['msg']}") from error
    add_key(file, key)
    if as_json:
        print_json({"key": text, **_shown(key)})
    else:
        click.echo(text)
        click.echo(f"{file}: key {name!r} added; it is shown this once", err=True)


@command.command(
    name="list",
    epilog="""\b
Examples:
  dlhpc key list
  dlhpc key list --file /etc/dlhpc/keys.json --json""",
)
@common
def list_command(file: Path, as_json: bool) -> None:
    """List the keys, by name; none can be used from what is kept of it."""
    from dlhpc.serving.api_keys import read_keys

    keys = read_keys(file).keys
    if as_json:
        print_json([_shown(key) for key in keys])
        return
    rows = table("name", "scopes", "priority", "rate", "created", "expires")
    for key in keys:
        rate = "" if key.rate is None else f"{key.rate.per_second:g}/s, {key.rate.burst} at once"
        expires = "never" if key.expires is None else f"{key.expires:%Y-%m-%d}"
        rows.add_row(key.name, ", ".join(key.scopes), key.priority, rate, f"{key.created:%Y-%m-%d}", expires)
    console().print(rows)


@command.command(
    epilog="""\b
Examples:
  dlhpc key remove ci-runner"""
)
@click.argument("name")
@common
def remove(name: str, file: Path, as_json: bool) -> None:
    """Remove the key named NAME; servers refuse it within a second."""
    from dlhpc.serving.api_keys import remove_key

    remove_key(file, name)
    if as_json:
        print_json({"removed": name})
    else:
        click.echo(f"{file}: key {name!r} removed", err=True)


def _rate(per_second: float | None, burst: int | None) -> RateSpec | None:
    from dlhpc.spec.rates import RateSpec

    if per_second is None:
        if burst is not None:
            raise UsageError("--burst needs --per-second")
        return None
    return RateSpec(per_second=per_second, **({} if burst is None else {"burst": burst}))


def _shown(key: ApiKey) -> dict[str, Any]:
    return key.model_dump(mode="json", exclude={"salt", "hash"})
