"""The registry: a folder of plain files, or the same files in an object store (places.py).

    registry.json                                    the format of this folder
    blobs/sha256/ab/<digest>                         the bytes of files
    manifests/sha256/ab/<digest>                     the manifests: the versions themselves
    names/<name>/versions/<n>.json                   labels: version n of a name is this manifest
    names/<name>/aliases/<alias>/<n>.json            moves of an alias
    annotations/sha256/ab/<digest>/<kind>/<n>.json   what was said about a version: tags, notes, ...

What begins with a dot is the writers' own (leases.py, clock.py, label_index.py): readers can do without it.

Publishing writes blobs, then the manifest, then the label; the label is the one step that makes a version exist under
its name. What an interrupted publication leaves is complete or invisible. Readers write nothing.
"""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import TypeVar

from dlhpc.errors import ConflictError, IntegrityError, NotFoundError, UsageError
from dlhpc.ports import BackendLoader
from dlhpc.registry import aliases, blobs, clock, labels, remarks, signatures, signing, tagging
from dlhpc.registry.artifact import Artifact
from dlhpc.registry.benchmark import Measured, add_benchmark
from dlhpc.registry.benchmark_record import BenchmarkRecord
from dlhpc.registry.folders import cannot_write, entries
from dlhpc.registry.label_index import Label
from dlhpc.registry.leases import lease
from dlhpc.registry.manifest import WEIGHTS_FILE, Manifest, parse_manifest, sha256
from dlhpc.registry.places import Place, make_folder, names, relative, replace
from dlhpc.registry.progress import Progress, quiet
from dlhpc.registry.reader import MARKER, MARKER_FILE, Reader, Version
from dlhpc.registry.record_kinds import (
    AliasRecord,
    NoteRecord,
    RemarkRecord,
    SignatureRecord,
    Stamp,
    Stamper,
    TagRecord,
    VersionRecord,
)
from dlhpc.registry.records import numbers
from dlhpc.registry.refs import NAME, check_name
from dlhpc.registry.stores.object_store import ObjectPath, require_conditions
from dlhpc.weights.file import to_bytes

__all__ = ["MARKER", "Registry", "Version"]

A = TypeVar("A", bound=RemarkRecord)

CLOCK = ".clock"


class Registry(Reader):
    """A folder, or an object store, of published versions, to which more are published. Opening one touches nothing."""

    def __init__(
        self, root: Place | str, load_backend: BackendLoader, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        super().__init__(root, load_backend)
        self._now = now

    def publish(
        self,
        artifact: Artifact,
        name: str,
        *,
        alias: str | None = None,
        note: str = "",
        run: PurePath | str | None = None,
        progress: Progress = quiet,
    ) -> str:
        """Make an artifact the next version of `name`, and return its digest.

        Publishing what the name already holds gives that version again, not a new label. `alias` is then moved to it.
        `run`, the folder of the training run, is kept with a new label. Raises UsageError on a bad name,
        IntegrityError when a file is not that of the manifest.
        """
        files = {WEIGHTS_FILE: to_bytes(artifact.weights), **artifact.files}
        folder = None if run is None else str(run)
        label = self._publish(artifact.manifest_bytes, artifact.manifest, files, name, alias, note, folder, progress)
        return label.manifest

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
        """As `publish`, with the manifest and the files as bytes; gives the label."""
        parsed = parse_manifest(manifest, f"the manifest to publish as {name!r}")
        label = self._publish(manifest, parsed, files, name, alias, note, run, progress)
        return self._describe(name, [Label.of(label)])[0]

    def _publish(
        self,
        manifest_bytes: bytes,
        manifest: Manifest,
        files: Mapping[str, bytes],
        name: str,
        alias: str | None,
        note: str,
        run: str | None,
        progress: Progress,
    ) -> VersionRecord:
        check_name(name)
        if alias is not None:
            check_name(alias, "alias")
        tagging.check_text(note, "note")
        if files.keys() != manifest.files.keys():
            raise IntegrityError(f"files {sorted(files)} came with a manifest that names {sorted(manifest.files)}")
        for file, entry in manifest.files.items():
            if sha256(files[file]) != entry.sha256:
                raise IntegrityError(f"{file} was changed after it was made: make a new artifact of it")
        digest = sha256(manifest_bytes)
        used = [blobs.content_path(self.blobs, entry.sha256) for entry in manifest.files.values()]
        used += [self.root / MARKER_FILE, blobs.content_path(self.manifests, digest), self.names_folder / name]
        with self._writing(*used):
            self._create()
            for file, entry in manifest.files.items():
                blobs.put(self.blobs, files[file], digest=entry.sha256, what=file, progress=progress)
            blobs.put(self.manifests, manifest_bytes, digest=digest)
            label = labels.commit(self.versions(name), name, digest, run, self._stamp)
            if alias is not None:
                aliases.move(self.aliases(name), alias, label, note, self._stamp)
        return label

    def set_alias(self, name: str, alias: str, ref: str, *, note: str = "", expected: int | None = None) -> AliasRecord:
        """Let `name`@`alias` stand for a version of that name; `note` says why. Returns the (last) move.

        With `expected`, the number of the move that must be the last one (0: none), a move that somebody else made
        since raises ConflictError.
        """
        check_name(name)
        check_name(alias, "alias")
        tagging.check_text(note, "note")
        target = labels.label_of(self.versions(name), name, self.resolve(ref))
        if target is None:
            raise UsageError(f"{ref} is not a version of {name!r}, so {name}@{alias} cannot stand for it")
        with self._writing(self.names_folder / name):
            return aliases.move(self.aliases(name), alias, target, note, self._stamp, expected)

    def tag(self, ref: str, key: str, value: str, *, note: str = "") -> TagRecord:
        """Set a tag of a version, under all its names; `note` says why. Returns the (last) change."""
        tagging.check_key(key)
        tagging.check_text(value, "tag's value")
        change = self._tag(self._published(ref), key, value, note)
        assert change is not None
        return change

    def untag(self, ref: str, key: str, *, note: str = "") -> TagRecord:
        """Remove a tag of a version. Raises NotFoundError when it has none of that name."""
        digest = self._published(ref)
        tags = tagging.tags(self.annotations, digest)
        if key not in tags:
            there = f"it has: {', '.join(tags)}" if tags else "it has none"
            raise NotFoundError(f"{ref} has no tag {key!r} ({there})")
        change = self._tag(digest, key, None, note)
        assert change is not None
        return change

    def note(self, ref: str, text: str) -> NoteRecord:
        """Add a note to a version, under all its names."""
        tagging.check_text(text, "note")
        if not text.strip():
            raise UsageError("an empty note says nothing: give it some words")
        digest = self._published(ref)
        with self._writing(blobs.content_path(self.annotations, digest)):
            return tagging.add_note(self.annotations, digest, text, self._stamp)

    def sign(self, ref: str, key: Path | str, *, passphrase: str | None = None, note: str = "") -> SignatureRecord:
        """Sign a version, under all its names, with the private key in a PEM file; `note` says why.

        The version is read and verified first. A key that signed it already gives that signature again. An encrypted
        key's passphrase is `passphrase`, or that of the environment (DLHPC_KEY_PASSPHRASE).
        """
        tagging.check_text(note, "note")
        opened = signing.read_private_key(key, passphrase)
        digest = self._published(ref)
        self.read(f"sha256:{digest}")
        files = self.manifest_of(digest).digests
        with self._writing(blobs.content_path(self.annotations, digest)):
            return signatures.add(self.annotations, digest, files, opened, note, self._stamp)

    @contextmanager
    def adding_benchmarks(
        self, refs: Sequence[str]
    ) -> Iterator[tuple[list[str], Callable[[str, Measured], BenchmarkRecord]]]:
        """Give the digests of versions, and what adds a benchmark to each.

        That a version has no name, or that the registry cannot be written to, shows at once.
        """
        digests = list(dict.fromkeys(self._published(ref) for ref in refs))
        with self._writing(*(blobs.content_path(self.annotations, digest) for digest in digests)):
            yield digests, lambda digest, found: add_benchmark(self.annotations, digest, found, self._stamp)

    def attach(self, ref: str, content: bytes, add: Callable[[Place, str, Stamper], A]) -> A:
        """Keep a file that a record about a version stands for, and write the record.

        `add` is given the folder of annotations, the version's digest, and what stamps a record; it gives the record.
        """
        digest = self._published(ref)
        with self._writing(
            blobs.content_path(self.annotations, digest), blobs.content_path(self.blobs, sha256(content))
        ):
            blobs.put(self.blobs, content)
            return add(self.annotations, digest, self._stamp)

    def keep_signature(self, ref: str, signature: SignatureRecord) -> SignatureRecord:
        """Add a signature of the same version that another registry holds. Whose it is, `require_signature` finds out.

        Raises IntegrityError when it is of another version.
        """
        digest = self._published(ref)
        fault = signatures.check(signature, digest, self.manifest_of(digest).digests)
        if fault is not None:
            raise IntegrityError(f"the signature {signature.number} to be kept with {ref} {fault}")
        key, envelope, note = signature.key, signature.envelope, signature.note
        with self._writing(blobs.content_path(self.annotations, digest)):
            return signatures.keep(self.annotations, digest, key, envelope, note, self._stamp)

    def _tag(self, digest: str, key: str, value: str | None, note: str) -> TagRecord | None:
        tagging.check_text(note, "note")
        with self._writing(blobs.content_path(self.annotations, digest)):
            return tagging.set_tag(self.annotations, digest, key, value, note, self._stamp)

    def _published(self, ref: str) -> str:
        digest = self.resolve(ref)
        if not self.labels(digest):
            raise NotFoundError(
                f"{ref} was left by an interrupted publication, under no name: publish it, then say something about it"
            )
        return digest

    def _create(self) -> None:
        """Make an empty folder a registry. Any number of processes may do so at once."""
        marker = self.root / MARKER_FILE
        if marker.exists():
            self.check_format()
        if isinstance(marker, ObjectPath):
            require_conditions(marker, MARKER)
        elif not marker.exists():
            replace(marker, MARKER)

    def _refuse_another_use(self) -> None:
        others = [name for name in names(self.root) if not name.startswith(".")]
        if others and not (self.root / MARKER_FILE).exists():
            raise ConflictError(f"{self.root}: no registry, and not empty (it has {others[0]!r}): name another folder")

    def _stamp(self, after: int) -> Stamp:
        moment = self._now().astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        try:
            user = getpass.getuser()
        except (KeyError, OSError):  # a container's user without an entry in /etc/passwd
            user = str(os.getuid())
        number = clock.tick(self.root / CLOCK, after, self._last_sequence)
        return Stamp(moment, f"{user}@{socket.gethostname()}", number)

    def _last_sequence(self) -> int:
        """The largest number that any record carries: asked for once, where the clock is missing."""
        found = [0]
        for name in entries(self.names_folder, NAME):
            versions = self.versions(name)
            found += [labels.label(versions, name, number).sequence for number in numbers(versions)[-1:]]
            for alias in aliases.alias_names(self.aliases(name)):
                move = aliases.moves(self.aliases(name), name, alias).last()
                found.append((move and move.sequence) or 0)
        for digest in blobs.digests(self.annotations):
            last = [remarks.ledger(self.annotations, digest, kind).last() for kind in remarks.KINDS]
            found += [(record and record.sequence) or 0 for record in last]
        return max(found)

    @contextmanager
    def _writing(self, *used: Place) -> Iterator[None]:
        """Hold a lease on what is used. What fails may be done again: what was committed is found and kept."""
        with cannot_write(self.root):
            make_folder(self.root)
            self._refuse_another_use()
            with lease(self.root, [relative(path, self.root) for path in used]):
                yield
