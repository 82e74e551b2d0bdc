"""Exchange: the one small protocol of everything that keeps versions, and the copying of a version from one to another.

A version is its digest, so a copy is the same version: its manifest's bytes are those that were published first. Its
files, its tags and, between our own registries, its signatures travel; who published it when, its aliases, its notes
and what else was said about it belong to the place where it was said, and stay there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from dlhpc.errors import IntegrityError, NotFoundError, UsageError
from dlhpc.ports import BackendLoader
from dlhpc.registry.manifest import parse_manifest, sha256
from dlhpc.registry.places import Place
from dlhpc.registry.progress import Progress, quiet
from dlhpc.registry.reader import Version
from dlhpc.registry.refs import DigestRef, check_name, parse_ref, short
from dlhpc.registry.store import Registry

__all__ = ["Progress", "Store", "copy", "open_store", "quiet"]


class Store(Protocol):
    """What keeps versions: a folder, an object store, another maker's registry.

    References are those of refs.py. Errors are those of Registry: UsageError for a malformed name or reference,
    NotFoundError for what is not there, IntegrityError, naming the file, for damage.
    """

    def names(self) -> tuple[str, ...]:
        """Every name with at least one version, sorted."""
        ...

    def list(self, name: str | None = None) -> tuple[Version, ...]:
        """The newest version of every name; or every version of one name, oldest first."""
        ...

    def resolve(self, ref: str) -> str:
        """The digest (64 hex digits) that a reference stands for."""
        ...

    def read(self, ref: str, *, progress: Progress = quiet) -> tuple[bytes, dict[str, bytes]]:
        """The verified bytes of a version: its manifest, and its files by name."""
        ...

    def publish_bytes(
        self,
        manifest: bytes,
        files: Mapping[str, bytes],
        name: str,
        *,
        alias: str | None = None,
        note: str = "",
        run: str | None = None,
        progress: Progress = quiet,
    ) -> Version:
        """Make these bytes the next version of `name`, or find the one that they are already.

        Files that are there and whole are not sent again. Raises IntegrityError when a file is not what the manifest
        says, before anything is written.
        """
        ...

    def set_alias(self, name: str, alias: str, ref: str, *, note: str = "") -> object:
        """Let `name`@`alias` stand for a version of that name."""
        ...

    def tags(self, ref: str) -> dict[str, str]:
        """The tags of a version now."""
        ...

    def tag(self, ref: str, key: str, value: str, *, note: str = "") -> object:
        """Set a tag of a version."""
        ...


def open_store(location: Place | str, load_backend: BackendLoader) -> Store:
    """What keeps versions at a location: the one place that knows all kinds. Opening touches nothing.

    `mlflow+http://host:port` (or https) is an MLflow server; everything else a folder.
    """
    if str(location).startswith("mlflow+"):
        from dlhpc.registry.stores.mlflow import MlflowStore

        return MlflowStore(str(location))
    return Registry(location, load_backend)


def copy(
    source: Store,
    target: Store,
    ref: str,
    *,
    name: str | None = None,
    alias: str | None = None,
    note: str = "",
    progress: Progress = quiet,
) -> Version:
    """Copy a version, under the name that it has in `ref` or under `name`, and give its label in the target.

    What the target holds already is not sent again. The bytes are hashed when they have been read, and again when the
    target gives them back. Tags are set where they differ; the target's other tags stay. `alias` is set last.
    Raises what the two stores raise; IntegrityError when one of them gives other bytes than the digest says.
    """
    name = _name(ref) if name is None else check_name(name)
    if alias is not None:
        check_name(alias, "alias")
    digest = source.resolve(ref)
    version = f"sha256:{digest}"
    manifest, files = _held(target, digest) or source.read(version, progress=progress)
    _check(manifest, files, digest, f"the source's {ref}")
    label = target.publish_bytes(manifest, files, name, note=note, progress=progress)
    _check(*target.read(version, progress=progress), digest, f"the target's {label.ref}")
    tags = target.tags(version)
    for key, value in source.tags(version).items():
        if tags.get(key) != value:
            target.tag(version, key, value, note=note)
    if isinstance(source, Registry) and isinstance(target, Registry):
        for signature in source.signatures(version):
            target.keep_signature(version, signature)
    if alias is not None:
        target.set_alias(name, alias, label.ref, note=note)
    return _label(target, label)


def _check(manifest: bytes, files: Mapping[str, bytes], digest: str, where: str) -> None:
    actual = sha256(manifest)
    if actual != digest:
        raise IntegrityError(f"{where}: its manifest's sha256 is {actual}, expected {digest}")
    entries = parse_manifest(manifest, where).files
    if files.keys() != entries.keys():
        raise IntegrityError(f"{where}: has the files {sorted(files)}, but its manifest names {sorted(entries)}")
    for name, entry in entries.items():
        actual = sha256(files[name])
        if actual != entry.sha256:
            raise IntegrityError(f"{where}: {name}: sha256 is {actual}, expected {entry.sha256}")


def _held(target: Store, digest: str) -> tuple[bytes, dict[str, bytes]] | None:
    """The version as the target has it; None when it lacks it, or a part of it."""
    try:
        return target.read(f"sha256:{digest}")
    except (NotFoundError, IntegrityError):
        return None


def _name(ref: str) -> str:
    parsed = parse_ref(ref)
    if isinstance(parsed, DigestRef):
        raise UsageError(f"{ref}: a digest says no name: give the name that {short(parsed.prefix)} is to have there")
    return parsed.name


def _label(target: Store, label: Version) -> Version:
    """The label as it stands now, aliases included."""
    return next((each for each in target.list(label.name) if each.number == label.number), label)
