"""The local registry: a folder of plain files.

    registry.json                               the format of this folder
    blobs/sha256/ab/<digest>                    the bytes of files
    manifests/sha256/ab/<digest>                the manifests: the versions themselves
    names/<name>/versions/<n>.json              labels: version n of a name is this manifest
    names/<name>/aliases/<alias>/<n>.json       moves of an alias

Publishing writes blobs, then the manifest, then the label; the label is the one step that makes a version exist under
its name. What an interrupted publication leaves is complete or invisible. Readers write nothing.
"""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from dlhpc.errors import ConflictError, DlhpcError, IntegrityError, UsageError
from dlhpc.files import write_atomic
from dlhpc.ports import BackendLoader
from dlhpc.registry import absent, aliases, blobs, labels
from dlhpc.registry.artifact import Artifact, load_artifact
from dlhpc.registry.folders import entries, make_folder
from dlhpc.registry.manifest import FORMAT, WEIGHTS_FILE, Manifest, parse_manifest, sha256
from dlhpc.registry.records import AliasRecord, VersionRecord, numbers, record_path
from dlhpc.registry.refs import NAME, AliasRef, DigestRef, LabelRef, NewestRef, check_name, parse_ref, short
from dlhpc.spec.base import canonical_json
from dlhpc.weights.file import to_bytes

MARKER = canonical_json({"format": FORMAT, "kind": "dlhpc-registry"}) + b"\n"


@dataclass(frozen=True)
class Version:
    """A published version: a label, what it stands for, and which aliases stand for it."""

    name: str
    number: int
    digest: str
    published_at: str
    published_by: str
    sequence: int
    """Order of publication over all names."""
    aliases: tuple[str, ...]

    @property
    def ref(self) -> str:
        """`name:number`."""
        return f"{self.name}:{self.number}"


class Registry:
    """A folder of published versions. Opening one touches nothing; reading needs no write access."""

    def __init__(
        self, root: Path | str, load_backend: BackendLoader, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self.root = Path(root)
        self.load_backend = load_backend
        self._now = now
        self.blobs = self.root / "blobs"
        self.manifests = self.root / "manifests"
        self.names_folder = self.root / "names"

    # --- writing ---

    def publish(self, artifact: Artifact, name: str, *, alias: str | None = None, note: str = "") -> str:
        """Make an artifact the next version of `name`, and return its digest.

        Publishing what the name already holds gives that version again, not a new label. `alias` is then moved to it.
        Raises UsageError on a bad name, IntegrityError when the weights are not those of the manifest.
        """
        check_name(name)
        if alias is not None:
            check_name(alias, "alias")
        content = to_bytes(artifact.weights)
        if sha256(content) != artifact.manifest.files[WEIGHTS_FILE].sha256:
            raise IntegrityError("the artifact's weights were changed after it was made: make a new artifact of them")
        with self._writing():
            self._create()
            blobs.put(self.blobs, content)
            digest = blobs.put(self.manifests, artifact.manifest_bytes)
            label = labels.commit(self.versions(name), name, digest, self._next_sequence, self._stamp)
            if alias is not None:
                aliases.move(self.aliases(name), alias, label, note, self._stamp)
        return digest

    def set_alias(self, name: str, alias: str, ref: str, *, note: str = "") -> AliasRecord:
        """Let `name`@`alias` stand for a version of that name; `note` says why. Returns the (last) move."""
        check_name(name)
        check_name(alias, "alias")
        target = labels.label_of(self.versions(name), name, self.resolve(ref))
        if target is None:
            raise UsageError(f"{ref} is not a version of {name!r}, so {name}@{alias} cannot stand for it")
        with self._writing():
            return aliases.move(self.aliases(name), alias, target, note, self._stamp)

    # --- reading ---

    def get(self, ref: str) -> Artifact:
        """The artifact of a reference, verified: the bytes that were hashed are the bytes that are deserialised.

        Raises UsageError on a malformed reference, NotFoundError when there is no such version, and IntegrityError,
        naming the file, when any byte is not as published.
        """
        manifest_bytes, files = self.read(ref)
        return load_artifact(manifest_bytes, files, self.load_backend, ref)

    def read(self, ref: str) -> tuple[bytes, dict[str, bytes]]:
        """The verified bytes of a version: its manifest, and its files by name."""
        content, manifest = self._manifest(self.resolve(ref))
        return content, {
            name: blobs.read(self.blobs, entry.sha256, f"{name} of {ref} ({short(sha256(content))})", entry.size)
            for name, entry in manifest.files.items()
        }

    def manifest(self, ref: str) -> Manifest:
        """The verified manifest of a reference."""
        return self._manifest(self.resolve(ref))[1]

    def resolve(self, ref: str) -> str:
        """The digest (64 hex digits) that a reference stands for."""
        parsed = parse_ref(ref)
        self.check_format()
        match parsed:
            case DigestRef(prefix):
                return absent.only_digest(prefix, list(blobs.digests(self.manifests, prefix)), self.root)
            case NewestRef(name):
                return labels.label(self.versions(name), name, self._numbers(name)[-1]).manifest
            case LabelRef(name, number):
                if number not in self._numbers(name):
                    raise absent.no_number(self.root, name, number, self._numbers(name)[-1])
                return labels.label(self.versions(name), name, number).manifest
            case AliasRef(name, alias):
                return self._target(name, self._last_move(name, alias)).manifest

    def names(self) -> tuple[str, ...]:
        """Every name with at least one version, sorted. Raises NotFoundError when there is no registry."""
        self.check_format()
        return tuple(name for name in entries(self.names_folder, NAME) if numbers(self.versions(name)))

    def list(self, name: str | None = None) -> tuple[Version, ...]:
        """The newest version of every name; or every version of one name, oldest first."""
        if name is None:
            return tuple(self._describe(each, numbers(self.versions(each))[-1:])[0] for each in self.names())
        check_name(name)
        self.check_format()
        return self._describe(name, self._numbers(name))

    def labels(self, digest: str) -> tuple[Version, ...]:
        """Every label of a version, over all names: a version may be published under several."""
        found = ((name, labels.label_of(self.versions(name), name, digest)) for name in self.names())
        return tuple(
            version
            for name, label in found
            if label is not None
            for version in self._describe(name, range(label.number, label.number + 1))
        )

    def newest(self) -> Version:
        """The version published last, over all names. Raises NotFoundError when there is none."""
        versions = self.list()
        if not versions:
            raise absent.empty(self.root)
        return max(versions, key=lambda version: (version.sequence, version.published_at, version.name))

    def history(self, name: str, alias: str) -> tuple[AliasRecord, ...]:
        """Every move of an alias, oldest first."""
        check_name(name)
        check_name(alias, "alias")
        self.check_format()
        self._last_move(name, alias)
        return aliases.history(self.aliases(name), name, alias)

    def versions(self, name: str) -> Path:
        """Folder of a name's labels."""
        return self.names_folder / name / "versions"

    def aliases(self, name: str) -> Path:
        """Folder of a name's aliases."""
        return self.names_folder / name / "aliases"

    def check_format(self) -> None:
        """Raise NotFoundError when there is no registry, IntegrityError when its marker is damaged or too new."""
        path = self.root / "registry.json"
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

    # --- inside ---

    def _create(self) -> None:
        """Make an empty folder a registry. Any number of processes may do so at once."""
        make_folder(self.root)
        others = [name for name in os.listdir(self.root) if not name.startswith(".")]
        if (self.root / "registry.json").exists():
            self.check_format()
        elif others:
            raise ConflictError(f"{self.root}: no registry, and not empty (it has {others[0]!r}): name another folder")
        else:
            write_atomic(self.root / "registry.json", MARKER)

    def _manifest(self, digest: str) -> tuple[bytes, Manifest]:
        content = blobs.read(self.manifests, digest, f"the manifest of {short(digest)}")
        return content, parse_manifest(content, str(blobs.content_path(self.manifests, digest)))

    def _numbers(self, name: str) -> range:
        taken = numbers(self.versions(name))
        if not taken:
            raise absent.no_name(self.root, name, self.names())
        return taken

    def _last_move(self, name: str, alias: str) -> AliasRecord:
        newest = self._numbers(name)[-1]
        last = aliases.current(self.aliases(name), name, alias)
        if last is None:
            raise absent.no_alias(self.root, name, alias, aliases.alias_names(self.aliases(name)), newest)
        return last

    def _target(self, name: str, last: AliasRecord) -> VersionRecord:
        label = labels.label(self.versions(name), name, last.moved_to)
        if label.manifest != last.manifest:
            path = record_path(self.aliases(name) / last.alias, last.number)
            raise IntegrityError(f"{path}: stands for {short(last.manifest)}, but {name}:{label.number} is another")
        return label

    def _describe(self, name: str, wanted: range) -> tuple[Version, ...]:
        standing: dict[int, list[str]] = {}
        for alias in aliases.alias_names(self.aliases(name)):
            target = self._target(name, self._last_move(name, alias))
            standing.setdefault(target.number, []).append(alias)
        return tuple(
            Version(
                name=name,
                number=label.number,
                digest=label.manifest,
                published_at=label.at,
                published_by=label.by,
                sequence=label.sequence,
                aliases=tuple(standing.get(label.number, ())),
            )
            for label in (labels.label(self.versions(name), name, number) for number in wanted)
        )

    def _next_sequence(self) -> int:
        newest = (labels.label(self.versions(name), name, numbers(self.versions(name))[-1]) for name in self.names())
        return max((label.sequence for label in newest), default=0) + 1

    def _stamp(self) -> tuple[str, str]:
        moment = self._now().astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        try:
            user = getpass.getuser()
        except (KeyError, OSError):  # a container's user without an entry in /etc/passwd
            user = str(os.getuid())
        return moment, f"{user}@{socket.gethostname()}"

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Say what a disk that is full or read-only means: nothing was committed."""
        try:
            yield
        except OSError as error:
            raise DlhpcError(
                f"{self.root}: cannot write to the registry: {error.strerror} ({error.filename})"
            ) from error
