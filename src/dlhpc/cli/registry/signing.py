"""`dlhpc registry keygen` and `sign`: who vouches for a version."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from dlhpc.cli.output import print_json
from dlhpc.cli.registry.options import common, open_registry
from dlhpc.errors import ConflictError, UsageError


@click.command(
    epilog="""\b
Examples:
  dlhpc registry keygen release              release.pem, and release.pub to hand out
  dlhpc registry keygen release --no-passphrase

\b
Or with OpenSSL:
  openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -out release.pem
  openssl pkey -in release.pem -pubout -out release.pub"""
)
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--passphrase/--no-passphrase",
    "encrypted",
    default=True,
    show_default=True,
    help="Encrypt the private key; asks for the passphrase, or takes DLHPC_KEY_PASSPHRASE.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def keygen(path: Path, encrypted: bool, as_json: bool) -> None:
    """Make a pair of keys (ECDSA, P-256): PATH.pem signs and stays secret, PATH.pub checks."""
    from dlhpc.files import write_atomic
    from dlhpc.registry.signing import generate, read_public_key

    private, public = path.with_name(f"{path.name}.pem"), path.with_name(f"{path.name}.pub")
    for file in (private, public):
        if file.exists():
            raise ConflictError(f"{file}: exists: a key is not overwritten; name another")
    contents = generate(_passphrase(f"Passphrase of {private}", confirm=True) if encrypted else None)
    before = os.umask(0o077)
    try:
        write_atomic(private, contents[0])
    finally:
        os.umask(before)
    write_atomic(public, contents[1])
    key = read_public_key(public).id
    if as_json:
        print_json({"private": str(private), "public": str(public), "key": key})
    else:
        click.echo(f"{private}: keep it secret; {public}: hand it out. Key {key}")


@click.command(
    epilog="""\b
Examples:
  dlhpc registry sign digits-mlp:3 --key release.pem --note "passed the review"
  dlhpc registry verify digits-mlp:3 --require-signature release.pub"""
)
@click.argument("ref")
@click.option("--key", type=click.Path(path_type=Path), required=True, metavar="KEY.pem", help="The private key.")
@click.option("--note", default="", help="Why; kept with the signature.")
@common
def sign(ref: str, key: Path, note: str, root: str, as_json: bool) -> None:
    """Sign a version, under all its names, after reading and verifying it.

    The passphrase of an encrypted key is asked for, or taken from DLHPC_KEY_PASSPHRASE.
    """
    from dlhpc.registry.signing import is_encrypted

    passphrase = _passphrase(f"Passphrase of {key}") if is_encrypted(key) else None
    record = open_registry(root).sign(ref, key, passphrase=passphrase, note=note)
    if as_json:
        print_json(record.canonical())
    else:
        click.echo(f"{ref} (sha256:{record.version[:12]}) is signed with key {record.key}")


def _passphrase(prompt: str, *, confirm: bool = False) -> str:
    from dlhpc.registry.signing import PASSPHRASE

    given = os.environ.get(PASSPHRASE)
    if given:
        return given
    if not sys.stdin.isatty():
        raise UsageError(f"{prompt}: nobody is there to ask: set {PASSPHRASE}")
    asked: str = click.prompt(prompt, hide_input=True, confirmation_prompt=confirm, err=True)
    return asked
