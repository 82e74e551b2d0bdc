"""The text of `dlhpc config explain`."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click
from rich.table import Table

from dlhpc.cli.output import table
from dlhpc.errors import UsageError
from dlhpc.spec.catalogue import REQUIRED, Key
from dlhpc.spec.layers import Form
from dlhpc.spec.run import RunSpec
from dlhpc.spec.suggest import closest
from dlhpc.spec.support import RULES
from dlhpc.spec.write import flow

_WIDTH = 100


def matching(keys: Sequence[Key], path: str, form: Form) -> tuple[Key, ...]:
    """The keys with this path. UsageError with the nearest ones when there is none."""
    found = tuple(key for key in keys if key.path == path)
    if found:
        return found
    paths = list(dict.fromkeys(key.path for key in keys))
    section, _, last = path.rpartition(".")
    beside = closest(last, [p.rpartition(".")[2] for p in paths if p.rpartition(".")[0] == section])
    anywhere = closest(last, [p.rpartition(".")[2] for p in paths])
    near = [f"{section}.{beside}".lstrip(".")] if beside else [p for p in paths if p.rpartition(".")[2] == anywhere]
    hint = f"; did you mean {' or '.join(near)}?" if near else "; 'dlhpc config explain' lists all"
    kind = "a run's file" if form.root is RunSpec else "a server's file"
    raise UsageError(f"{path}: no such key in {kind}{hint}")


def list_keys(keys: Sequence[Key]) -> Table:
    """One line for each key."""
    rows = table("key", "takes", "default", "only with")
    for key in keys:
        rows.add_row(key.path, key.expected, _default(key), ", ".join(key.when))
    return rows


def json_key(key: Key, form: Form) -> dict[str, Any]:
    """A key as JSON."""
    required = key.default == REQUIRED
    return asdict(key) | {
        "default": None if required else key.default,
        "required": required,
        "environment": key.variable(form),
    }


def describe_keys(found: Sequence[Key], keys: Sequence[Key], form: Form) -> None:
    """Print everything about one path: its help under every choice, what it takes, and the ways to set it."""
    first = found[0]
    click.echo(first.path)
    for key in found:
        if key.when:
            click.echo(f"\n  with {', '.join(key.when)}:")
        _paragraph(key.help, "  ")
        click.echo(f"  takes    {key.expected}")
        if key.kind != "section":
            click.echo(f"  default  {_default(key)}")
        for choice, text in key.choices.items():
            click.echo(f"    {choice}{':' if text else ''}")
            _paragraph(text, "      ")
    below = [key for key in keys if key.path.startswith((f"{first.path}.", f"{first.path}[]."))]
    if below:
        click.echo("\n  keys:")
        for key in below:
            when = f"   (with {', '.join(key.when)})" if key.when else ""
            click.echo(f"    {key.path.removeprefix(first.path):<28} {key.expected}{when}")
    if first.kind == "section" or "[]" in first.path:
        return
    _ways(first, form)
    if form.root is RunSpec:
        for rule in RULES:
            if first.path in rule.keys:
                click.echo(f"  rule: {rule.statement}")


def _ways(key: Key, form: Form) -> None:
    example = _example(key)
    click.echo("\n  in a file:")
    for depth, part in enumerate(key.path.split(".")):
        last = depth == key.path.count(".")
        click.echo(f"    {'  ' * depth}{part}:{f' {example}' if last else ''}")
    click.echo(f"  on the command line:  --set {key.path}={_quoted(example)}")
    click.echo(f"  in the environment:   {key.variable(form)}={_quoted(example)}")


def _example(key: Key) -> str:
    if key.default is not None and key.default != REQUIRED:
        return flow(key.default)
    if key.choices:
        return next(iter(key.choices))
    samples = {
        "an integer": "10",
        "a number": "0.9",
        "a list of 3": "[28, 28, 1]",
        "a name": "my-run",
        "a path": "photos/",
    }
    return next((sample for start, sample in samples.items() if key.expected.startswith(start)), "my-model")


def _quoted(text: str) -> str:
    return f"'{text}'" if any(character in text for character in " []{}*") else text


def _default(key: Key) -> str:
    return "" if key.kind == "section" else key.default if key.default == REQUIRED else flow(key.default)


def _paragraph(text: str, indent: str) -> None:
    for line in textwrap.wrap(" ".join(text.split()), _WIDTH - len(indent)):
        click.echo(f"{indent}{line}")
