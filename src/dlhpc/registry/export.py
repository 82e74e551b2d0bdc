"""A verified copy of a version as ordinary files."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from dlhpc.errors import ConflictError, DlhpcError
from dlhpc.files import write_atomic
from dlhpc.registry import signing
from dlhpc.registry.manifest import sha256
from dlhpc.registry.statements import MANIFEST_FILE, SIGNATURES_FOLDER, SUMS_FILE
from dlhpc.registry.store import Registry
from dlhpc.spec.base import canonical_json


def export(registry: Registry, ref: str, folder: Path, *, require_signature: Sequence[Path | str] = ()) -> str:
    """Write a version's files, its manifest, their SHA256SUMS and its signatures to a new or empty folder; its digest.

    The folder appears whole or not at all; `sha256sum -c SHA256SUMS` checks it later, and so does OpenSSF's
    model-signing with a file of `signatures/` and the signer's public key. Raises ConflictError when
    something is there already, and whatever Registry.read raises.
    """
    refuse_taken(folder)
    manifest_bytes, files = registry.read(ref, require_signature=require_signature)
    contents = {**files, MANIFEST_FILE: manifest_bytes}
    signatures = {
        f"{SIGNATURES_FOLDER}/{record.key[:16]}.sig": canonical_json(signing.bundle(record.envelope)) + b"\n"
        for record in registry.signatures(f"sha256:{sha256(manifest_bytes)}")
    }
    write_folder(folder, contents, signatures)
    return sha256(manifest_bytes)


def refuse_taken(folder: Path) -> None:
    """Raise ConflictError unless a folder is new or empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConflictError(f"{folder}: exists and is not an empty folder: name another with --out")


def write_folder(folder: Path, contents: Mapping[str, bytes], others: Mapping[str, bytes]) -> None:
    """Write a folder, whole or not at all, with the SHA256SUMS of `contents`; `others` are in no sum."""
    sums = "".join(f"{sha256(content)}  {name}\n" for name, content in sorted(contents.items()))
    aside = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    try:
        for name, content in {**contents, **others, SUMS_FILE: sums.encode()}.items():
            write_atomic(aside / name, content)
        aside.replace(folder)
    except OSError as error:
        raise DlhpcError(f"{folder}: cannot be written: {error.strerror} ({error.filename})") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
