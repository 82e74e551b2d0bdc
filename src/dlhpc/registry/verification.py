"""Verification of a whole registry: every file is read, and every problem is told, not only the first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from dlhpc.errors import DlhpcError, IntegrityError
from dlhpc.registry import aliases, blobs, label_index, labels, remarks, signatures
from dlhpc.registry.artifact import load_artifact
from dlhpc.registry.folders import entries
from dlhpc.registry.label_index import Label
from dlhpc.registry.reader import Reader
from dlhpc.registry.record_kinds import SignatureRecord
from dlhpc.registry.records import numbers, record_path
from dlhpc.registry.refs import NAME, short

T = TypeVar("T")


@dataclass
class Verification:
    """What was looked at, and what was wrong."""

    versions: int = 0
    """Manifests whose files were read, hashed and loaded."""
    labels: int = 0
    moves: int = 0
    """Entries of alias histories."""
    remarks: int = 0
    """Changes of tags, notes, and whatever else was said about versions."""
    signed: int = 0
    """Labels whose version one of the required keys signed."""
    bytes: int = 0
    """Of all blobs."""
    unused: int = 0
    """Blobs that no version needs: left by interrupted publications, harmless."""
    problems: list[str] = field(default_factory=list)

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Note a problem and go on."""
        try:
            yield
        except DlhpcError as error:
            self.problems.append(str(error))


def verify(
    registry: Reader,
    progress: Callable[[str], None] = lambda _: None,
    *,
    require_signature: Sequence[Path | str] = (),
) -> Verification:
    """Read everything. `progress` is told the name of each thing before it is read.

    One of the keys in `require_signature` (files with public keys) has to have signed each version that has a label.

    Raises NotFoundError when there is no registry; damage is not raised but listed in `problems`.
    """
    found = Verification()
    try:
        registry.check_format()
    except IntegrityError as error:  # nothing below it can be read either
        found.problems.append(str(error))
        return found
    manifests = _listing(found, lambda: blobs.digests(registry.manifests))
    used = {digest for manifest in manifests for digest in _check_version(registry, manifest, found, progress)}
    for name in _listing(found, lambda: entries(registry.names_folder, NAME)):
        progress(name)
        _check_name(registry, name, set(manifests), found)
        _check_signed(registry, name, require_signature, found)
    for digest in _listing(found, lambda: blobs.digests(registry.annotations)):
        _check_remarks(registry, digest, set(manifests), used, found)
    stored = _listing(found, lambda: blobs.digests(registry.blobs))
    found.unused = len(set(stored) - used)
    found.bytes = sum(blobs.stored_size(registry.blobs, digest) for digest in stored)
    with found.telling():
        entries(registry.root, "registry.json|blobs|manifests|names|annotations")
    return found


def _check_version(
    registry: Reader, digest: str, found: Verification, progress: Callable[[str], None]
) -> tuple[str, ...]:
    """Load a version as a server would; the digests of its files."""
    progress(short(digest))
    with found.telling():
        ref = f"sha256:{digest}"
        named = registry.manifest(ref).files
        files: dict[str, bytes] = {}
        for name, entry in named.items():
            with found.telling():
                files[name] = registry.read_file(entry, f"{name} of {short(digest)}")
        with found.telling():
            if len(files) == len(named):
                load_artifact(registry.manifest_bytes(digest), files, registry.load_backend, ref)
                found.versions += 1
        return tuple(entry.sha256 for entry in named.values())
    return ()


def _check_name(registry: Reader, name: str, manifests: set[str], found: Verification) -> None:
    versions, moves = registry.versions(name), registry.aliases(name)
    with found.telling():
        entries(versions.parent, "versions|aliases")
    indexed = label_index.read(versions.parent, name)
    for number in _listing(found, lambda: numbers(versions)):
        with found.telling():
            label = labels.label(versions, name, number)
            if number <= len(indexed) and indexed[number - 1] != Label.of(label):
                raise IntegrityError(
                    f"{versions.parent / label_index.FILE}: says another thing than {record_path(versions, number)}; "
                    "remove it: the labels themselves are read instead"
                )
            manifest = blobs.content_path(registry.manifests, label.manifest)
            # One that was not listed may have been published since.
            if label.manifest not in manifests and not manifest.exists():
                raise IntegrityError(f"{record_path(versions, number)}: its manifest {manifest} is missing")
            found.labels += 1
    for alias in _listing(found, lambda: aliases.alias_names(moves)):
        with found.telling():
            found.moves += len(aliases.moves(moves, name, alias).all())
            registry.resolve(f"{name}@{alias}")


def _check_remarks(registry: Reader, digest: str, manifests: set[str], used: set[str], found: Verification) -> None:
    """Read what was said about a version; the blobs that it stands for are added to `used`."""
    folder = blobs.content_path(registry.annotations, digest)
    with found.telling():
        entries(folder, "|".join(kind.folder for kind in remarks.KINDS))
        if digest not in manifests and not blobs.content_path(registry.manifests, digest).exists():
            raise IntegrityError(f"{folder}: the version that it is about is missing")
    for kind in remarks.KINDS:
        with found.telling():
            records = remarks.ledger(registry.annotations, digest, kind).all()
            found.remarks += len(records)
            for record in records:
                if isinstance(record, SignatureRecord):
                    _check_signature(registry, record, found)
            for blob in {blob for record in records for blob in record.needed_blobs}:
                used.add(blob)
                with found.telling():
                    blobs.read(registry.blobs, blob, f"one of {kind.place_of(digest)}")


def _check_signed(registry: Reader, name: str, keys: Sequence[Path | str], found: Verification) -> None:
    for number in _listing(found, lambda: numbers(registry.versions(name))) if keys else ():
        with found.telling():
            digest = labels.label(registry.versions(name), name, number).manifest
            files = registry.manifest_of(digest).digests
            signatures.require(registry.annotations, digest, files, f"{name}:{number}", keys)
            found.signed += 1


def _check_signature(registry: Reader, record: SignatureRecord, found: Verification) -> None:
    """Whether a signature is of the version that it lies beside; whose it is, only a key can tell."""
    with found.telling():
        fault = signatures.check(record, record.version, registry.manifest_of(record.version).digests)
        if fault is not None:
            folder = remarks.ledger(registry.annotations, record.version, SignatureRecord).folder
            raise IntegrityError(f"{record_path(folder, record.number)}: the signature {fault}")


def _listing(found: Verification, read: Callable[[], Iterable[T]]) -> list[T]:
    with found.telling():
        return list(read())
    return []
