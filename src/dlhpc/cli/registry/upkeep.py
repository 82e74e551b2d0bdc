"""`dlhpc registry verify` and `gc`: whether every byte is as published, and what can go."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path

import click

from dlhpc.cli.output import bytes_text, print_json
from dlhpc.cli.registry.options import common, open_registry, require_signature
from dlhpc.errors import IntegrityError, UsageError

_UNITS_S = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


@click.command(
    epilog="""\b
Examples:
  dlhpc registry verify
  dlhpc registry verify digits-mlp:3
  dlhpc registry verify --require-signature release.pub"""
)
@click.argument("ref", required=False)
@require_signature
@common
def verify(ref: str | None, keys: tuple[Path, ...], root: str, as_json: bool) -> None:
    """Read and hash everything, or what REF needs. Exit status 3 when anything is damaged, naming each file.

    Files, digests and records that were replaced together agree with each other: only a signature tells.
    """
    from dlhpc.registry.verification import Verification
    from dlhpc.registry.verification import verify as verify_all

    registry = open_registry(root)
    if ref is not None:
        artifact = registry.get(ref, require_signature=keys)
        found = Verification(versions=1, signed=len(keys[:1]), bytes=artifact.manifest.size)
    else:
        found = verify_all(registry, require_signature=keys)
    if as_json:
        print_json(asdict(found))
    elif not found.problems:
        signed = ", every version is signed" if keys else ""
        click.echo(f"{found.versions} version(s), {bytes_text(found.bytes)}: every byte is as published{signed}")
    if found.problems:
        problems = "1 problem" if len(found.problems) == 1 else f"{len(found.problems)} problems"
        raise IntegrityError("\n  ".join([f"{root}: {problems}:", *found.problems]))


@click.command(
    epilog="""\b
Example:
  dlhpc registry fsck --json"""
)
@require_signature
@common
def fsck(keys: tuple[Path, ...], root: str, as_json: bool) -> None:
    """Read and hash the whole registry: another name of `verify` without REF."""
    click.get_current_context().invoke(verify, ref=None, keys=keys, root=root, as_json=as_json)


@click.command(
    epilog="""\b
Examples:
  dlhpc registry gc --dry-run
  dlhpc registry gc --grace 1d

\b
Safe at any time: what a running publication uses stays, whatever its age.
In an object store what is younger than a day stays: there are no locks."""
)
@click.option("--grace", help="Leave what is younger: seconds, or with s, m, h, d.  [default: 1h; object store: 1d]")
@click.option("--dry-run", is_flag=True, help="Tell what would go; remove nothing.")
@common
def gc(grace: str | None, dry_run: bool, root: str, as_json: bool) -> None:
    """Remove what interrupted publications left: files that no version needs, half-written ones, empty folders."""
    grace = grace or ("1d" if "://" in root else "1h")
    swept = open_registry(root).gc(grace_s=_seconds(grace), dry_run=dry_run)
    if as_json:
        print_json(swept.canonical())
        return
    if dry_run:
        for file in swept.files:
            click.echo(f"would go: {file}")
    kinds = ", ".join(
        f"{count} {kind}" + ("s" if count != 1 and kind != "temporary" else "") for kind, count in swept.removed.items()
    )
    click.echo(f"{'would remove' if dry_run else 'removed'} {bytes_text(swept.bytes)}: {kinds or 'nothing'}")
    kept = [f"{swept.young} younger than {grace}"] if swept.young else []
    kept += [f"{swept.used} in use by {swept.writers} running publication(s)"] if swept.used else []
    if kept:
        click.echo(f"kept: {', '.join(kept)}")


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    if found is None:
        raise UsageError(f"--grace {text!r} is no time: expected a number and s, m, h or d, such as 90s or 1.5h")
    return float(found[1]) * _UNITS_S[found[2]]
