"""A version as a folder that model hubs and other tools understand, and back: the same version again, or a refusal.

model.safetensors   the weights under their canonical names
config.json         run, classes, preprocessing, for other readers
README.md           the model card: metadata, results, how to use it; people may edit it
manifest.json       what the version is; golden.safetensors and model_card.md: its other files
SHA256SUMS          of all but README.md
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from dlhpc.errors import IntegrityError, NotFoundError
from dlhpc.ports import BackendLoader
from dlhpc.registry import model_card
from dlhpc.registry.artifact import Artifact, load_artifact
from dlhpc.registry.export import refuse_taken, write_folder
from dlhpc.registry.manifest import WEIGHTS_FILE, parse_manifest, sha256
from dlhpc.registry.progress import Progress, quiet
from dlhpc.registry.reader import Version
from dlhpc.registry.statements import MANIFEST_FILE, SIGNATURES_FOLDER, SUMS_FILE
from dlhpc.registry.store import Registry

MODEL_FILE: Final = "model.safetensors"
CONFIG_FILE: Final = "config.json"
README_FILE: Final = "README.md"
_SUM: Final = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9][A-Za-z0-9._-]{0,127})")


def export_model(registry: Registry, ref: str, folder: Path, *, progress: Progress = quiet) -> str:
    """Write a version as such a folder, new or empty, whole or not at all; its digest.

    Raises ConflictError when something is there already, and whatever Registry.read raises.
    """
    refuse_taken(folder)
    manifest_bytes, files = registry.read(ref, progress=progress)
    artifact = load_artifact(manifest_bytes, files, registry.load_backend, ref)
    others = {name: content for name, content in files.items() if name != WEIGHTS_FILE}
    contents = {
        MODEL_FILE: files[WEIGHTS_FILE],
        MANIFEST_FILE: manifest_bytes,
        CONFIG_FILE: model_card.config(artifact.manifest),
        **others,
    }
    text = model_card.readme(artifact.manifest, artifact.digest, artifact.card, folder.resolve().name)
    write_folder(folder, contents, {README_FILE: text.encode()})
    return artifact.digest


def read_folder(folder: Path, load_backend: BackendLoader) -> Artifact:
    """The version in an exported folder, of `export_model` or `export`, verified.

    Raises NotFoundError when it is no such folder, IntegrityError, naming the file, when one is missing, different,
    a link, or not part of it. Nothing outside the folder is read.
    """
    if not (folder / MANIFEST_FILE).exists():
        raise NotFoundError(
            f"{folder}: no exported version: it has no {MANIFEST_FILE}; dlhpc registry export writes one"
        )
    contents: dict[str, bytes] = {}
    for name, digest in _sums(folder).items():
        contents[name] = _read(folder / name)
        if sha256(contents[name]) != digest:
            raise IntegrityError(f"{folder / name}: sha256 is {sha256(contents[name])}, {SUMS_FILE} says {digest}")
    for name in (MANIFEST_FILE, *([] if WEIGHTS_FILE in contents else [MODEL_FILE])):
        if name not in contents:
            raise IntegrityError(f"{folder / SUMS_FILE}: says nothing of {name}")
    allowed = {*contents, README_FILE, SUMS_FILE, SIGNATURES_FOLDER}
    for path in sorted(folder.iterdir()):
        if path.name not in allowed and not path.name.startswith("."):
            raise IntegrityError(f"{path}: no part of the exported version: move it away")
    found = {WEIGHTS_FILE if name == MODEL_FILE else name: content for name, content in contents.items()}
    manifest_bytes = found.pop(MANIFEST_FILE)
    found.pop(CONFIG_FILE, None)
    entries = parse_manifest(manifest_bytes, str(folder / MANIFEST_FILE)).files
    for name in sorted(entries.keys() | found.keys()):
        if name not in found or name not in entries or sha256(found[name]) != entries[name].sha256:
            file = MODEL_FILE if name == WEIGHTS_FILE and MODEL_FILE in contents else name
            raise IntegrityError(f"{folder / file}: not the file that {MANIFEST_FILE} names")
    return load_artifact(manifest_bytes, found, load_backend, str(folder))


def import_folder(
    registry: Registry,
    folder: Path,
    name: str,
    *,
    alias: str | None = None,
    note: str = "",
    run: Path | None = None,
    progress: Progress = quiet,
) -> Version:
    """Publish what an exported folder holds: the same version, with the same digest. Raises as `read_folder`."""
    artifact = read_folder(folder, registry.load_backend)
    digest = registry.publish(artifact, name, alias=alias, note=note, run=run, progress=progress)
    return next(version for version in registry.labels(digest) if version.name == name)


def _sums(folder: Path) -> dict[str, str]:
    """Name -> sha256 of every file that SHA256SUMS lists."""
    path = folder / SUMS_FILE
    return {name: digest for digest, name in _lines(path, _read(path))}


def _lines(path: Path, content: bytes) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(content.decode(errors="replace").splitlines(), 1):
        found = _SUM.fullmatch(line)
        if found is None:
            raise IntegrityError(f"{path}:{number}: expected a sha256, two spaces and a file's name: {line[:200]!r}")
        yield found[1], found[2]


def _read(path: Path) -> bytes:
    """The bytes of a file that lies in the folder itself."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            return file.read()
    except FileNotFoundError:
        raise IntegrityError(f"{path}: missing") from None
    except OSError as error:
        what = "a link: only files of the folder itself are read" if path.is_symlink() else error.strerror
        raise IntegrityError(f"{path}: cannot be read: {what}") from error
