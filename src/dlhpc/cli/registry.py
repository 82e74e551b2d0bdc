"""`dlhpc registry`: published models: list, show, get, alias, verify."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dlhpc.cli.output import bytes_text, console, print_json, table
from dlhpc.errors import IntegrityError, UsageError

if TYPE_CHECKING:
    from dlhpc.api import Registry
    from dlhpc.registry.manifest import Manifest
    from dlhpc.registry.record_kinds import AliasRecord
    from dlhpc.registry.store import Version

F = TypeVar("F", bound=Callable[..., Any])

REFERENCES = """\b
References:
  digits-mlp               the newest version
  digits-mlp:3             version 3
  digits-mlp@production    where the alias points
  sha256:5f0c2a9e          the version itself, by 8 or more digits of its digest"""


def _common(function: F) -> F:
    function = click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)
    return click.option(
        "--registry",
        "root",
        type=click.Path(path_type=Path),
        default=Path("registry"),
        show_default=True,
        help="Folder of the registry.",
    )(function)


def _open(root: Path) -> Registry:
    from dlhpc.api import Registry

    return Registry(root)


@click.group(
    epilog=f"""{REFERENCES}

\b
Examples:
  dlhpc registry list
  dlhpc registry alias digits-mlp production digits-mlp:3"""
)
def command() -> None:
    """List, show, copy, name and verify published models."""


@command.command(
    "list",
    epilog="""\b
Examples:
  dlhpc registry list
  dlhpc registry list digits-mlp --json""",
)
@click.argument("name", required=False)
@_common
def list_command(name: str | None, root: Path, as_json: bool) -> None:
    """The newest version of every name, or every version of NAME."""
    registry = _open(root)
    rows = [(version, registry.manifest(f"sha256:{version.digest}")) for version in registry.list(name)]
    if as_json:
        print_json([{**_version(version), **_summary(manifest)} for version, manifest in rows])
        return
    columns = ("version", "aliases", "model", "accuracy", "size", "digest", "published")
    shown = table(*columns, right=("accuracy", "size"))
    for version, manifest in rows:
        accuracy = manifest.metrics.get("accuracy")
        shown.add_row(
            version.ref,
            ", ".join(version.aliases),
            manifest.run.model_name,
            "" if accuracy is None else f"{accuracy:.4f}",
            bytes_text(manifest.size),
            version.digest[:12],
            version.published_at[:19].replace("T", " "),
        )
    console().print(shown)


@command.command(
    epilog=f"""\b
Examples:
  dlhpc registry show digits-mlp
  dlhpc registry show digits-mlp@production --json

{REFERENCES}"""
)
@click.argument("ref")
@_common
def show(ref: str, root: Path, as_json: bool) -> None:
    """What a version is: model, classes, metrics, files, where it came from."""
    registry = _open(root)
    digest = registry.resolve(ref)
    manifest, labels = registry.manifest(f"sha256:{digest}"), registry.labels(digest)
    if as_json:
        print_json(
            {"digest": digest, "labels": [_version(label) for label in labels], "manifest": manifest.canonical()}
        )
        return
    shown = table("", "", title=ref)
    shown.show_header = False
    for key, value in _facts(digest, manifest, labels).items():
        shown.add_row(key, value)
    console().print(shown)


@command.command(
    epilog="""\b
Example:
  dlhpc registry get digits-mlp@production --out model
  (cd model && sha256sum -c SHA256SUMS)"""
)
@click.argument("ref")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="New folder for the files.")
@_common
def get(ref: str, out: Path, root: Path, as_json: bool) -> None:
    """Write a verified copy of a version's files to a new folder."""
    from dlhpc.registry.export import export

    digest = export(_open(root), ref, out)
    files = sorted(path.name for path in out.iterdir())
    if as_json:
        print_json({"ref": ref, "digest": digest, "folder": str(out), "files": files})
    else:
        click.echo(f"{out}: {', '.join(files)} of {ref} (sha256:{digest})")


@command.command(
    epilog="""\b
Examples:
  dlhpc registry alias digits-mlp production digits-mlp:3 --note "passed the gates"
  dlhpc registry alias digits-mlp production"""
)
@click.argument("name")
@click.argument("alias")
@click.argument("ref", required=False)
@click.option("--note", default="", help="Why it moves; kept in the history.")
@_common
def alias(name: str, alias: str, ref: str | None, note: str, root: Path, as_json: bool) -> None:
    """Let NAME@ALIAS stand for REF. Without REF: where it stood, when, and who moved it."""
    registry = _open(root)
    if ref is None:
        if note:
            raise UsageError("--note says why an alias moves: give the REF that it moves to")
        moves = registry.history(name, alias)
        print_json([move.canonical() for move in moves]) if as_json else _print_history(name, alias, moves)
        return
    move = registry.set_alias(name, alias, ref, note=note)
    if as_json:
        print_json(move.canonical())
    else:
        before = "" if move.moved_from is None else f" (before: {name}:{move.moved_from})"
        click.echo(f"{name}@{alias} is {name}:{move.moved_to}{before}")


@command.command(
    epilog="""\b
Examples:
  dlhpc registry verify
  dlhpc registry verify digits-mlp:3"""
)
@click.argument("ref", required=False)
@_common
def verify(ref: str | None, root: Path, as_json: bool) -> None:
    """Read and hash everything, or what REF needs. Exit status 3 when anything is damaged, naming each file."""
    from dlhpc.registry.verification import Verification
    from dlhpc.registry.verification import verify as verify_all

    registry = _open(root)
    if ref is not None:
        artifact = registry.get(ref)
        found = Verification(versions=1, bytes=artifact.manifest.size)
    else:
        found = verify_all(registry)
    if as_json:
        print_json(asdict(found))
    elif not found.problems:
        click.echo(f"{found.versions} version(s), {bytes_text(found.bytes)}: every byte is as published")
    if found.problems:
        problems = "1 problem" if len(found.problems) == 1 else f"{len(found.problems)} problems"
        raise IntegrityError("\n  ".join([f"{root}: {problems}:", *found.problems]))


def _version(version: Version) -> dict[str, Any]:
    return {"ref": version.ref, **asdict(version), "aliases": list(version.aliases)}


def _summary(manifest: Manifest) -> dict[str, Any]:
    return {
        "model": manifest.run.model_name,
        "backend": manifest.run.backend,
        "metrics": manifest.metrics,
        "size": manifest.size,
        "num_classes": len(manifest.classes),
    }


def _facts(digest: str, manifest: Manifest, labels: tuple[Version, ...]) -> dict[str, str]:
    run, code = manifest.run, manifest.code
    classes = ", ".join(manifest.classes[:12]) + (", ..." if len(manifest.classes) > 12 else "")
    names = [label.ref + "".join(f", {label.name}@{alias}" for alias in label.aliases) for label in labels]
    published = [f"{label.ref} {label.published_at[:19].replace('T', ' ')} by {label.published_by}" for label in labels]
    return {
        "digest": f"sha256:{digest}",
        "names": "\n".join(names) or "(none)",
        "published": "\n".join(published) or "(never)",
        "model": f"{run.model_name}, trained in {run.backend}",
        "input": " x ".join(map(str, manifest.inputs.shape[1:])) + f" {' or '.join(manifest.inputs.dtypes)}, NHWC",
        "classes": f"{len(manifest.classes)}: {classes}",
        "preprocessing": f"(x / 255 - {_numbers(run.data.mean)}) / {_numbers(run.data.std)}",
        "metrics": ", ".join(f"{name} {value:.6g}" for name, value in manifest.metrics.items()) or "(none)",
        "data": f"{run.data.source}, fingerprint {manifest.data_fingerprint[:12]}",
        "training": f"{run.training.num_epochs} epochs of batch {run.training.batch_size}, "
        f"{run.optimizer.name} at {run.training.learning_rate:g}, seed {run.seed}",
        "code": "(not from a git checkout)" if code is None else code.commit + (", modified" if code.modified else ""),
        "environment": ", ".join(f"{name} {version}" for name, version in manifest.environment.items()),
        "files": "\n".join(
            f"{name}  {bytes_text(entry.size)}  sha256:{entry.sha256}" for name, entry in manifest.files.items()
        ),
        "parents": "\n".join(f"sha256:{parent}" for parent in manifest.parents) or "(none)",
    }


def _numbers(values: tuple[float, ...]) -> str:
    return f"{values[0]:g}" if len(values) == 1 else f"[{', '.join(f'{value:g}' for value in values)}]"


def _print_history(name: str, alias: str, moves: tuple[AliasRecord, ...]) -> None:
    shown = table("when", "from", "to", "who", "why", title=f"{name}@{alias}", right=("from", "to"))
    for move in moves:
        before = "" if move.moved_from is None else str(move.moved_from)
        shown.add_row(move.at[:19].replace("T", " "), before, str(move.moved_to), move.by, move.note)
    console().print(shown)
