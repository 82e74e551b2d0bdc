"""`dlhpc registry alias`, `tag`, `note` and `history`: what people say about versions, and who said it when."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from dlhpc.cli.output import console, print_json, table
from dlhpc.cli.registry.options import REFERENCES, common, moment, open_registry
from dlhpc.cli.registry.reading import tags_text
from dlhpc.errors import UsageError

if TYPE_CHECKING:
    from dlhpc.registry.events import Event
    from dlhpc.registry.record_kinds import AliasRecord


@click.command(
    epilog="""\b
Examples:
  dlhpc registry alias digits-mlp production digits-mlp:3 --note "passed the gates"
  dlhpc registry alias digits-mlp production"""
)
@click.argument("name")
@click.argument("alias")
@click.argument("ref", required=False)
@click.option("--note", default="", help="Why it moves; kept in the history.")
@common
def alias(name: str, alias: str, ref: str | None, note: str, root: str, as_json: bool) -> None:
    """Let NAME@ALIAS stand for REF. Without REF: where it stood, when, and who moved it."""
    registry = open_registry(root)
    if ref is None:
        if note:
            raise UsageError("--note says why an alias moves: give the REF that it moves to")
        moves = registry.history(name, alias)
        print_json([move.canonical() for move in moves]) if as_json else _print_moves(name, alias, moves)
        return
    move = registry.set_alias(name, alias, ref, note=note)
    if as_json:
        print_json(move.canonical())
    else:
        before = "" if move.moved_from is None else f" (before: {name}:{move.moved_from})"
        click.echo(f"{name}@{alias} is {name}:{move.moved_to}{before}")


@click.command(
    epilog="""\b
Examples:
  dlhpc registry tag digits-mlp:3 stage=gold owner=vision --note "reviewed"
  dlhpc registry tag digits-mlp:3 --remove stage
  dlhpc registry tag digits-mlp:3"""
)
@click.argument("ref")
@click.argument("tags", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--remove", multiple=True, metavar="KEY", help="Remove a tag; may be repeated.")
@click.option("--note", default="", help="Why; kept in the history.")
@common
def tag(ref: str, tags: tuple[str, ...], remove: tuple[str, ...], note: str, root: str, as_json: bool) -> None:
    """Set or remove tags of a version, under all its names. Without any: the tags that it has."""
    pairs = [_pair(each) for each in tags]
    both = {key for key, _ in pairs} & set(remove)
    if both:
        raise UsageError(f"{', '.join(sorted(both))}: to be set and to be removed; give one of the two")
    if note and not (pairs or remove):
        raise UsageError("--note says why tags change: give KEY=VALUE or --remove KEY")
    registry = open_registry(root)
    version = f"sha256:{registry.resolve(ref)}"
    for key, value in pairs:
        registry.tag(version, key, value, note=note)
    for key in remove:
        registry.untag(version, key, note=note)
    now = registry.tags(version)
    if as_json:
        print_json({"ref": ref, "digest": version.removeprefix("sha256:"), "tags": now})
    else:
        click.echo(f"{ref}: {tags_text(now) or 'no tags'}")


@click.command(
    epilog="""\b
Examples:
  dlhpc registry note digits-mlp:3 "confuses 3 and 8 in low light"
  dlhpc registry note digits-mlp:3"""
)
@click.argument("ref")
@click.argument("text", required=False)
@common
def note(ref: str, text: str | None, root: str, as_json: bool) -> None:
    """Add a note to a version, under all its names. Without TEXT: the notes that it has."""
    registry = open_registry(root)
    notes = (registry.note(ref, text),) if text is not None else registry.notes(ref)
    if as_json:
        print_json([each.canonical() for each in notes])
    elif text is not None:
        click.echo(f"{ref}: note {notes[0].number} added")
    else:
        for each in notes:
            click.echo(f"{moment(each.at)} {each.by}: {each.text}")


@click.command(
    epilog=f"""\b
Examples:
  dlhpc registry history digits-mlp
  dlhpc registry history digits-mlp@production --json

\b
A bare name means all that happened to the name; else all that happened to the one version.

{REFERENCES}"""
)
@click.argument("ref", metavar="NAME|REF")
@common
def history(ref: str, root: str, as_json: bool) -> None:
    """Publications, aliases, tags, notes, benchmarks and derived files, in the order in which they happened."""
    events = open_registry(root).events(ref)
    if as_json:
        print_json([asdict(event) for event in events])
        return
    shown = table("when", "version", "what", "who", "why", title=ref)
    for event in events:
        shown.add_row(moment(event.at), event.ref, _what(event), event.by, "" if event.kind == "note" else event.note)
    console().print(shown)


def _what(event: Event) -> str:
    match event.kind:
        case "published":
            return "published" + (f" from {event.what}" if event.what else "")
        case "alias":
            return f"alias {event.what}" + (f", before at {event.before}" if event.before else "")
        case "tag":
            return f"tag {event.what}={event.after}" + (f", before {event.before}" if event.before is not None else "")
        case "untag":
            return f"tag {event.what} removed, before {event.before}"
        case "note":
            return f"note: {event.note}"
        case "signature":
            return f"signed with key {event.what[:12]}"
        case "benchmark":
            return f"benchmark of {event.what}"
        case "derived":
            return f"derived {event.what}"


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"{text!r} is no tag: expected KEY=VALUE; to remove one: --remove {key}")
    return key, value


def _print_moves(name: str, alias: str, moves: tuple[AliasRecord, ...]) -> None:
    shown = table("when", "from", "to", "who", "why", title=f"{name}@{alias}", right=("from", "to"))
    for move in moves:
        before = "" if move.moved_from is None else str(move.moved_from)
        shown.add_row(moment(move.at), before, str(move.moved_to), move.by, move.note)
    console().print(shown)
