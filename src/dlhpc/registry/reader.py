"""Reading a registry: references, versions, aliases, tags. It needs no write access and writes nothing."""

from __future__ import annotations

import builtins
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from dlhpc.errors import IntegrityError, UsageError
from dlhpc.ports import BackendLoader
from dlhpc.registry import absent, aliases, blobs, labels, remarks, signatures, tagging
from dlhpc.registry.artifact import Artifact, check_card, load_artifact
from dlhpc.registry.benchmark_record import BenchmarkRecord
from dlhpc.registry.cache import NodeCache
from dlhpc.registry.folders import entries
from dlhpc.registry.label_index import Label
from dlhpc.registry.manifest import CARD_FILE, FileEntry, Manifest, parse_manifest
from dlhpc.registry.places import Place, place
from dlhpc.registry.progress import Progress, quiet
from dlhpc.registry.record_kinds import AliasRecord, NoteRecord, SignatureRecord, VersionRecord
from dlhpc.registry.records import numbers, record_path
from dlhpc.registry.refs import NAME, AliasRef, DigestRef, LabelRef, NewestRef, check_name, parse_ref, short
from dlhpc.spec.base import canonical_json
from dlhpc.spec.verification import Verify

LOG = logging.getLogger(__name__)

MARKER = canonical_json({"format": 1, "kind": "dlhpc-registry"}) + b"\n"
MARKER_FILE = "registry.json"


class Version(NamedTuple):
    """A published version: a label, what it stands for, and which aliases stand for it."""

    name: str
    number: int
    digest: str
    published_at: str
    published_by: str
    sequence: int
    """Order of publication over all names."""
    run: str | None
    """Folder of the training run that published it, where it is known."""
    aliases: tuple[str, ...]

    @property
    def ref(self) -> str:
        """`name:number`."""
        return f"{self.name}:{self.number}"


class Reader:
    """A folder, or an object store, of published versions. Opening one touches nothing."""

    def __init__(self, root: Place | str, load_backend: BackendLoader) -> None:
        self.root = place(root)
        self.load_backend = load_backend
        self.blobs = self.root / "blobs"
        self.manifests = self.root / "manifests"
        self.names_folder = self.root / "names"
        self.annotations = self.root / "annotations"

    def get(
        self,
        ref: str,
        *,
        verify: Verify = "full",
        cache: NodeCache | None = None,
        require_signature: Sequence[Path | str] = (),
    ) -> Artifact:
        """The artifact of a reference, verified: the bytes that were hashed are the bytes that are deserialised.

        `verify="cached"` takes files from the node's `cache` (the user's by default), which were hashed when they came
        there; "fast" compares their sizes and hashes the manifest alone. `require_signature` are files with public
        keys: one of these keys has to have signed the version.
        Raises UsageError on a malformed reference, NotFoundError when there is no such version, and IntegrityError,
        naming the file, when any byte is not as published.
        """
        read = self.read(ref, verify=verify, cache=cache, require_signature=require_signature)
        return load_artifact(*read, self.load_backend, ref)

    def read(
        self,
        ref: str,
        *,
        verify: Verify = "full",
        cache: NodeCache | None = None,
        require_signature: Sequence[Path | str] = (),
        progress: Progress = quiet,
    ) -> tuple[bytes, dict[str, bytes]]:
        """The verified bytes of a version: its manifest, and its files by name. As `get`."""
        digest = self.resolve(ref)
        content, manifest = self._manifest(digest)
        version = f"{ref} ({short(digest)})"
        if require_signature:
            if verify == "fast":
                raise UsageError(f"{version}: a signature is of digests, which verify='fast' does not compute")
            signatures.require(self.annotations, digest, manifest.digests, ref, require_signature)
        if verify == "fast":
            LOG.warning("%s: loaded without hashing its files (fast): a changed byte goes unnoticed", version)

        def fetch(name: str, entry: FileEntry) -> bytes:
            return self.read_file(entry, f"{name} of {version}", progress, hashed=verify != "fast")

        if verify != "cached":
            return content, {name: fetch(name, entry) for name, entry in manifest.files.items()}
        cache = cache or NodeCache()
        return content, {
            name: cache.read(entry.sha256, entry.size, partial(fetch, name, entry))
            for name, entry in manifest.files.items()
        }

    def card(self, ref: str) -> str | None:
        """The model card of a version, verified; None where it has none."""
        entry = self.manifest(ref).files.get(CARD_FILE)
        what = f"{CARD_FILE} of {ref}"
        return None if entry is None else check_card(self.read_file(entry, what), what)

    def read_file(self, entry: FileEntry, what: str, progress: Progress = quiet, *, hashed: bool = True) -> bytes:
        """The verified bytes of a file that a manifest names; `what` says in errors what they should be."""
        return blobs.read(self.blobs, entry.sha256, what, entry.size, progress, hashed=hashed)

    def manifest(self, ref: str) -> Manifest:
        """The verified manifest of a reference."""
        return self._manifest(self.resolve(ref))[1]

    def manifest_of(self, digest: str) -> Manifest:
        """The verified manifest of a whole digest."""
        return self._manifest(digest)[1]

    def manifest_bytes(self, digest: str) -> bytes:
        """The verified bytes of the manifest of a whole digest."""
        return blobs.read(self.manifests, digest, f"the manifest of {short(digest)}")

    def resolve(self, ref: str) -> str:
        """The digest (64 hex digits) that a reference stands for."""
        parsed = parse_ref(ref)
        self.check_format()
        match parsed:
            case DigestRef(digest) if len(digest) == 64 and blobs.content_path(self.manifests, digest).exists():
                return digest
            case DigestRef(prefix):
                return absent.only_digest(prefix, list(blobs.digests(self.manifests, prefix)), self.root)
            case NewestRef(name):
                return labels.label(self.versions(name), name, self._numbers(name)[-1]).manifest
            case LabelRef(name, number):
                taken = self._numbers(name)
                if number not in taken:
                    raise absent.no_number(self.root, name, number, taken[-1])
                return labels.label(self.versions(name), name, number).manifest
            case AliasRef(name, alias):
                return self._target(name, self._last_move(name, alias, self._numbers(name))).manifest

    def names(self) -> tuple[str, ...]:
        """Every name with at least one version, sorted. Raises NotFoundError when there is no registry."""
        self.check_format()
        return tuple(name for name in entries(self.names_folder, NAME) if numbers(self.versions(name)))

    def list(self, name: str | None = None) -> tuple[Version, ...]:
        """The newest version of every name; or every version of one name, oldest first.

        The labels of a long list come from the index (labels.py); `get` and `resolve` read the label itself.
        """
        if name is None:
            return tuple(self._newest(each) for each in self.names())
        check_name(name)
        self.check_format()
        return self._describe(name, [*labels.every(self.versions(name), name, self._numbers(name))])

    def labels(self, digest: str) -> tuple[Version, ...]:
        """Every label of a version, over all names: a version may be published under several."""
        found = ((name, labels.label_of(self.versions(name), name, digest)) for name in self.names())
        return tuple(
            version for name, label in found if label is not None for version in self._describe(name, [Label.of(label)])
        )

    def newest(self) -> Version:
        """The version published last, over all names. Raises NotFoundError when there is none."""
        versions = self.list()
        if not versions:
            raise absent.empty(self.root)
        return max(versions, key=lambda version: (version.sequence, version.published_at, version.name))

    def history(self, name: str, alias: str) -> tuple[AliasRecord, ...]:
        """Every move of an alias, oldest first. For all that happened to a name: `registry.events`."""
        check_name(name)
        check_name(alias, "alias")
        self.check_format()
        self._last_move(name, alias, self._numbers(name))
        return aliases.moves(self.aliases(name), name, alias).all()

    def tags(self, ref: str) -> dict[str, str]:
        """The tags of a version now."""
        return tagging.tags(self.annotations, self.resolve(ref))

    def notes(self, ref: str) -> tuple[NoteRecord, ...]:
        """The notes on a version, oldest first."""
        return remarks.ledger(self.annotations, self.resolve(ref), NoteRecord).all()

    def signatures(self, ref: str) -> tuple[SignatureRecord, ...]:
        """The signatures of a version, oldest first, unchecked: `require_signature` checks them against a key."""
        return remarks.ledger(self.annotations, self.resolve(ref), SignatureRecord).all()

    def benchmarks(self, ref: str) -> tuple[BenchmarkRecord, ...]:
        """What was measured of a version, oldest first."""
        return remarks.ledger(self.annotations, self.resolve(ref), BenchmarkRecord).all()

    def last_move(self, name: str, alias: str) -> AliasRecord | None:
        """The last move of an alias; None when it was never set. Raises NotFoundError when there is no such name."""
        check_name(name)
        self.check_format()
        self._numbers(name)
        last = aliases.moves(self.aliases(name), name, alias).last()
        if last is not None:
            self._target(name, last)
        return last

    def versions(self, name: str) -> Place:
        """Folder of a name's labels."""
        return self.names_folder / name / "versions"

    def aliases(self, name: str) -> Place:
        """Folder of a name's aliases."""
        return self.names_folder / name / "aliases"

    def check_format(self) -> None:
        """Raise NotFoundError when there is no registry, IntegrityError when its marker is damaged or too new."""
        path = self.root / MARKER_FILE
        try:
            content = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError) as error:
            if self.names_folder.exists():
                raise IntegrityError(f"{path}: missing, although {self.names_folder} exists; restore it") from error
            raise absent.empty(self.root) from error
        except OSError as error:
            raise IntegrityError(f"{path}: cannot be read ({error.strerror})") from error
        if content != MARKER:
            raise IntegrityError(f"{path}: damaged, or of a later dlhpc: {content[:60]!r}, expected {MARKER!r}")

    def _manifest(self, digest: str) -> tuple[bytes, Manifest]:
        content = self.manifest_bytes(digest)
        return content, parse_manifest(content, str(blobs.content_path(self.manifests, digest)))

    def _numbers(self, name: str) -> range:
        taken = numbers(self.versions(name))
        if not taken:
            raise absent.no_name(self.root, name, self.names())
        return taken

    def _last_move(self, name: str, alias: str, taken: range) -> AliasRecord:
        last = aliases.moves(self.aliases(name), name, alias).last()
        if last is None:
            raise absent.no_alias(self.root, name, alias, aliases.alias_names(self.aliases(name)), taken[-1])
        return last

    def _target(self, name: str, last: AliasRecord) -> VersionRecord:
        label = labels.label(self.versions(name), name, last.moved_to)
        if label.manifest != last.manifest:
            path = record_path(self.aliases(name) / last.alias, last.number)
            raise IntegrityError(f"{path}: stands for {short(last.manifest)}, but {name}:{label.number} is another")
        return label

    def _newest(self, name: str) -> Version:
        number = numbers(self.versions(name))[-1]
        return self._describe(name, [Label.of(labels.label(self.versions(name), name, number))])[0]

    def _describe(self, name: str, wanted: builtins.list[Label]) -> tuple[Version, ...]:
        standing: dict[int, builtins.list[str]] = {}
        for alias in aliases.alias_names(self.aliases(name)):
            last = aliases.moves(self.aliases(name), name, alias).last()
            assert last is not None
            standing.setdefault(self._target(name, last).number, []).append(alias)
        return tuple(
            Version(name, number, digest, at, by, sequence, run, tuple(standing.get(number, ())))
            for number, digest, at, by, sequence, run in wanted
        )
