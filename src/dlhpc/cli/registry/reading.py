"""`dlhpc registry list`, `show` and `get`: which versions there are, what they are, and their files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dlhpc.cli.output import bytes_text, console, print_json, table
from dlhpc.cli.registry.derived_text import derived_json, derived_text
from dlhpc.cli.registry.options import REFERENCES, common, moment, open_registry, require_signature

if TYPE_CHECKING:
    from dlhpc.registry.lineage import Lineage
    from dlhpc.registry.manifest import Manifest
    from dlhpc.registry.record_kinds import NoteRecord, SignatureRecord
    from dlhpc.registry.store import Version


@click.command(
    "list",
    epilog="""\b
Examples:
  dlhpc registry list
  dlhpc registry list digits-mlp --limit 10
  dlhpc registry list digits-mlp --json""",
)
@click.argument("name", required=False)
@click.option("--limit", type=click.IntRange(min=1), help="Only so many of the newest.")
@common
def list_command(name: str | None, limit: int | None, root: str, as_json: bool) -> None:
    """The newest version of every name, or every version of NAME."""
    registry = open_registry(root)
    versions = registry.list(name)
    if limit is not None:
        newest = sorted(versions, key=lambda version: version.sequence)[-limit:]
        versions = tuple(version for version in versions if version in newest)
    rows = [(version, registry.manifest_of(version.digest)) for version in versions]
    if as_json:
        print_json([{**version_json(version), **summary(manifest)} for version, manifest in rows])
    else:
        print_versions(rows)


@click.command(
    epilog=f"""\b
Examples:
  dlhpc registry show digits-mlp
  dlhpc registry show digits-mlp@production --json

{REFERENCES}"""
)
@click.argument("ref")
@common
def show(ref: str, root: str, as_json: bool) -> None:
    """What a version is: model, classes, metrics, files, tags, notes, signatures, derived files, and its origin."""
    registry = open_registry(root)
    digest = registry.resolve(ref)
    version = f"sha256:{digest}"
    manifest, labels = registry.manifest(version), registry.labels(digest)
    tags, notes, lineage = registry.tags(version), registry.notes(version), registry.lineage(version)
    signatures = registry.signatures(version)
    derived = registry.derived(version)
    card = registry.card(version)
    if as_json:
        print_json(
            {
                "digest": digest,
                "labels": [version_json(label) for label in labels],
                "tags": tags,
                "notes": [note.canonical() for note in notes],
                "signatures": [signature.canonical() for signature in signatures],
                "derived": [derived_json(record) for record in derived],
                "lineage": lineage.canonical(),
                "card": card,
                "manifest": manifest.canonical(),
            }
        )
        return
    shown = table("", "", title=ref)
    shown.show_header = False
    facts = _facts(digest, manifest, labels) | _remarks(tags, notes, signatures) | _origin(manifest, lineage)
    facts["derived"] = "\n".join(map(derived_text, derived)) or "(none)"
    facts["model card"] = "(none)" if card is None else card.strip()
    for key, value in facts.items():
        shown.add_row(key, value)
    console().print(shown)


@click.command(
    epilog="""\b
Example:
  dlhpc registry get digits-mlp@production --out model
  (cd model && sha256sum -c SHA256SUMS)"""
)
@click.argument("ref")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="New folder for the files.")
@require_signature
@common
def get(ref: str, out: Path, keys: tuple[Path, ...], root: str, as_json: bool) -> None:
    """Write a verified copy of a version's files, and its signatures, to a new folder."""
    from dlhpc.registry.export import export

    digest = export(open_registry(root), ref, out, require_signature=keys)
    files = sorted(path.name for path in out.iterdir())
    if as_json:
        print_json({"ref": ref, "digest": digest, "folder": str(out), "files": files})
    else:
        click.echo(f"{out}: {', '.join(files)} of {ref} (sha256:{digest})")


def print_versions(rows: list[tuple[Version, Manifest]], tags: list[dict[str, str]] | None = None) -> None:
    """A table of versions; with a column of their tags, if given."""
    columns = ["version", "aliases", "model", "accuracy", "size", "digest", "published"]
    shown = table(*columns, *(["tags"] if tags is not None else []), right=("accuracy", "size"))
    for index, (version, manifest) in enumerate(rows):
        accuracy = manifest.metrics.get("accuracy")
        shown.add_row(
            version.ref,
            ", ".join(version.aliases),
            manifest.run.model_name,
            "" if accuracy is None else f"{accuracy:.4f}",
            bytes_text(manifest.size),
            version.digest[:12],
            moment(version.published_at),
            *([] if tags is None else [tags_text(tags[index])]),
        )
    console().print(shown)


def version_json(version: Version) -> dict[str, Any]:
    """A label as JSON values."""
    return {"ref": version.ref, **version._asdict(), "aliases": list(version.aliases)}


def summary(manifest: Manifest) -> dict[str, Any]:
    """What lists of versions say of each."""
    return {
        "model": manifest.run.model_name,
        "backend": manifest.run.backend,
        "metrics": manifest.metrics,
        "size": manifest.size,
        "num_classes": len(manifest.classes),
    }


def tags_text(tags: dict[str, str]) -> str:
    """Tags as people read them."""
    return ", ".join(f"{key}={value}" for key, value in sorted(tags.items()))


def _facts(digest: str, manifest: Manifest, labels: tuple[Version, ...]) -> dict[str, str]:
    run = manifest.run
    classes = ", ".join(manifest.classes[:12]) + (", ..." if len(manifest.classes) > 12 else "")
    names = [label.ref + "".join(f", {label.name}@{alias}" for alias in label.aliases) for label in labels]
    published = [f"{label.ref} {moment(label.published_at)} by {label.published_by}" for label in labels]
    return {
        "digest": f"sha256:{digest}",
        "names": "\n".join(names) or "(none)",
        "published": "\n".join(published) or "(never)",
        "model": f"{run.model_name}, trained in {run.backend}",
        "input": " x ".join(map(str, manifest.inputs.shape[1:])) + f" {' or '.join(manifest.inputs.dtypes)}, NHWC",
        "classes": f"{len(manifest.classes)}: {classes}",
        "preprocessing": f"(x / 255 - {_numbers(run.data.mean)}) / {_numbers(run.data.std)}",
        "metrics": ", ".join(f"{name} {value:.6g}" for name, value in manifest.metrics.items()) or "(none)",
        "training": f"{run.training.num_epochs} epochs of batch {run.training.batch_size}, "
        f"{run.optimizer.name} at {run.training.learning_rate:g}, seed {run.seed}",
        "environment": ", ".join(f"{name} {version}" for name, version in manifest.environment.items()),
        "licence": manifest.licence or "(none)",
        "files": "\n".join(
            f"{name}  {bytes_text(entry.size)}  sha256:{entry.sha256}" for name, entry in manifest.files.items()
        ),
    }


def _remarks(
    tags: dict[str, str], notes: tuple[NoteRecord, ...], signatures: tuple[SignatureRecord, ...]
) -> dict[str, str]:
    said_to_be_by = [f"key {each.key[:12]}, {moment(each.at)} by {each.by}, unchecked" for each in signatures]
    return {
        "tags": tags_text(tags) or "(none)",
        "notes": "\n".join(f"{moment(note.at)} {note.by}: {note.text}" for note in notes) or "(none)",
        "signatures": "\n".join(said_to_be_by) or "(none)",
    }


def _origin(manifest: Manifest, lineage: Lineage) -> dict[str, str]:
    code = manifest.code
    ancestors = [
        f"{'parent' if each.generation == 1 else f'{each.generation} generations back'} sha256:{each.digest}"
        + (f" ({', '.join(each.refs)})" if each.refs else "" if each.here else " (not in this registry)")
        for each in lineage.ancestors
    ]
    return {
        "run": ", ".join([*lineage.run_folders, f"spec sha256:{lineage.run}"]),
        "data": "(not known: imported weights)"
        if manifest.data_fingerprint is None
        else f"{manifest.run.data.source}, fingerprint {manifest.data_fingerprint}",
        "code": "(not from a git checkout)" if code is None else code.commit + (", modified" if code.modified else ""),
        "parents": "\n".join(ancestors) or "(none)",
    }


def _numbers(values: tuple[float, ...]) -> str:
    return f"{values[0]:g}" if len(values) == 1 else f"[{', '.join(f'{value:g}' for value in values)}]"
