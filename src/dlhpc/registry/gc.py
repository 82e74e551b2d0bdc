"""Sweeping: what interrupted publications left behind is removed, and nothing else.

Kept is what a label stands for, the parents of those versions, and what a running writer uses (leases.py). Of the rest,
files younger than the grace period stay too: a dlhpc that takes no leases may be writing them. A sweep that is killed
has removed some of what was to go; another goes on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from dlhpc.errors import DlhpcError, IntegrityError, UsageError
from dlhpc.registry import blobs, labels, remarks
from dlhpc.registry.folders import cannot_write, entries
from dlhpc.registry.leases import Leases, held, removing
from dlhpc.registry.manifest import manifest_fields
from dlhpc.registry.object_leases import LEASE_S
from dlhpc.registry.partial import SUFFIX
from dlhpc.registry.places import Place, age_and_size, relative
from dlhpc.registry.reader import Reader
from dlhpc.registry.record_kinds import RemarkRecord
from dlhpc.registry.records import numbers
from dlhpc.registry.refs import NAME
from dlhpc.registry.stores.object_store import ObjectPath

GRACE_S = 3600.0
"""Default for a folder; that of an object store is LEASE_S, and the least there."""
_BATCH = 256
"""Files removed while writers wait."""

Kind = Literal["blob", "manifest", "temporary", "folder", "lease"]


@dataclass
class Swept:
    """What a sweep removed, or would remove."""

    dry_run: bool
    bytes: int = 0
    removed: dict[Kind, int] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    """Relative to the registry."""
    young: int = 0
    """Files that stay for the grace period."""
    used: int = 0
    """Files that stay since a running writer uses them."""
    writers: int = 0
    """Running writers."""

    def canonical(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class _Found:
    kind: Kind
    path: Place
    final: Place
    """The file that it is, is a part of, or was to become."""


class _Needed:
    """The manifests and blobs that labels need. Labels that are added meanwhile are read by asking again."""

    def __init__(self, registry: Reader) -> None:
        self.registry = registry
        self.manifests: set[str] = set()
        self.blobs: set[str] = set()
        self._read: dict[str, int] = {}

    def refresh(self) -> None:
        """Read the labels that were not there before. Raises IntegrityError when anything is damaged."""
        for name in entries(self.registry.names_folder, NAME):
            folder = self.registry.versions(name)
            taken = numbers(folder)
            for number in taken[self._read.get(name, 0) :]:
                self._need(labels.label(folder, name, number).manifest)
            self._read[name] = len(taken)
        for digest in blobs.digests(self.registry.annotations):
            if digest in self.manifests:
                self._need_remarks(digest)

    def _need_remarks(self, digest: str) -> None:
        """What records about a needed version stand for."""
        for kind in remarks.KINDS:
            if kind.needed_blobs is not RemarkRecord.needed_blobs:
                for record in remarks.ledger(self.registry.annotations, digest, kind).all():
                    self.blobs.update(record.needed_blobs)

    def _need(self, digest: str) -> None:
        waiting = [digest]
        while waiting:
            wanted = waiting.pop()
            if wanted in self.manifests:
                continue
            self.manifests.add(wanted)
            where = str(blobs.content_path(self.registry.manifests, wanted))
            fields = manifest_fields(self.registry.manifest_bytes(wanted), where)
            try:
                self.blobs.update(entry["sha256"] for entry in fields["files"].values())
                parents = [str(parent) for parent in fields["parents"]]
            except (KeyError, TypeError, AttributeError) as error:
                raise IntegrityError(f"{where}: not a manifest: it does not name its files and parents") from error
            # Parents may lie in another registry.
            waiting += [each for each in parents if blobs.content_path(self.registry.manifests, each).exists()]


def sweep(
    registry: Reader,
    *,
    grace_s: float | None = None,
    dry_run: bool = False,
    now: Callable[[], float] = time.time,
    progress: Callable[[str], None] = lambda _: None,
) -> Swept:
    """Remove what no label needs and no writer uses, where it is older than the grace period.

    Publications may run meanwhile. Raises NotFoundError when there is no registry, and IntegrityError, before anything
    is removed, when a label or manifest is damaged: what it needs cannot be known.
    """
    grace_s = _grace(registry.root, grace_s)
    registry.check_format()
    needed = _Needed(registry)
    progress("reading labels and manifests")
    needed.refresh()
    found = [*_unneeded(registry, needed), *_temporary(registry.root)]
    cutoff = now() - grace_s
    sweep = _Sweep(registry.root, needed, Swept(dry_run), cutoff)
    if dry_run:
        leases = held(registry.root, cutoff)
        sweep.files(found, leases)
        sweep.empty_folders(registry, leases)
        return sweep.swept
    with cannot_write(registry.root):
        for start in range(0, len(found), _BATCH):
            progress(f"removing {start + 1} of {len(found)}")
            with removing(registry.root, cutoff) as leases:
                needed.refresh()
                sweep.files(found[start : start + _BATCH], leases)
        with removing(registry.root, cutoff) as leases:
            sweep.empty_folders(registry, leases)
    return sweep.swept


def _grace(root: Place, grace_s: float | None) -> float:
    has_locks = not isinstance(root, ObjectPath)
    if grace_s is None:
        return GRACE_S if has_locks else LEASE_S
    if not grace_s >= 0:
        raise UsageError(f"a grace period of {grace_s:g} seconds ends before it begins: give 0 or more")
    if not has_locks and grace_s < LEASE_S:
        raise UsageError(
            f"{root}: an object store has no locks, so nobody can tell a dead writer from a slow one, and what is "
            f"younger than a day stays: give a grace period of {LEASE_S:g} seconds or more, or none"
        )
    return grace_s


def _unneeded(registry: Reader, needed: _Needed) -> Iterator[_Found]:
    # Manifests first: a sweep that is killed leaves no manifest without its files.
    for digest in blobs.digests(registry.manifests):
        if digest not in needed.manifests:
            path = blobs.content_path(registry.manifests, digest)
            yield _Found("manifest", path, path)
    for digest in blobs.digests(registry.blobs):
        if digest not in needed.blobs:
            path = blobs.content_path(registry.blobs, digest)
            yield from (_Found("blob", piece, path) for piece in blobs.pieces(registry.blobs, digest))


def _temporary(root: Place) -> Iterator[_Found]:
    if not isinstance(root, Path):
        return  # an object is whole, or absent
    for folder, _, names in os.walk(root):
        for name in names:
            # `.<name>.<pid>.<hex>.tmp`, or `.<name>.partial`
            if name.startswith(".") and name.endswith(".tmp"):
                yield _Found("temporary", Path(folder, name), Path(folder, name[1:].rsplit(".", 3)[0]))
            elif name.startswith(".") and name.endswith(SUFFIX):
                yield _Found("temporary", Path(folder, name), Path(folder, name[1:].removesuffix(SUFFIX)))


class _Sweep:
    """One sweep: what is removed, batch by batch, while the leases stand still."""

    def __init__(self, root: Place, needed: _Needed, swept: Swept, cutoff: float) -> None:
        self.root, self.needed, self.swept, self.cutoff = root, needed, swept, cutoff
        self._gone: set[Place] = set()
        self._emptied: set[Place] = set()

    def files(self, found: list[_Found], leases: Leases) -> None:
        """Remove those of the files that are still unneeded, unused and old."""
        for each in found:
            with suppress(FileNotFoundError):  # its writer, or another sweep, was first
                written_at, size = age_and_size(each.path)
                if self._is_needed(each):
                    continue
                if leases.protects(relative(each.final, self.root)):
                    self.swept.used += 1
                elif written_at > self.cutoff:
                    self.swept.young += 1
                elif leases.may_remove():
                    self._remove(each, size)
                else:
                    raise DlhpcError(f"{self.root}: the sweep took too long for one step: run gc again")

    def empty_folders(self, registry: Reader, leases: Leases) -> None:
        """Remove the leases of dead writers, then the folders in which nothing is left."""
        self.swept.writers = leases.living
        for path in leases.stale:
            with suppress(FileNotFoundError):  # its writer was not dead but at its end
                self._remove(_Found("lease", path, path), age_and_size(path)[1])
        for top in (registry.blobs, registry.manifests, registry.names_folder, registry.annotations):
            for name, _, _ in os.walk(top, topdown=False) if isinstance(top, Path) else ():
                folder = Path(name)
                if not leases.protects(relative(folder, self.root)):
                    self._remove_if_empty(folder)

    def _is_needed(self, each: _Found) -> bool:
        match each.kind:
            case "blob":
                return each.final.name in self.needed.blobs
            case "manifest":
                return each.path.name in self.needed.manifests
        return False

    def _remove_if_empty(self, folder: Path) -> None:
        inside = [folder / name for name in os.listdir(folder)]
        emptied_now = folder in self._emptied
        if all(path in self._gone for path in inside) and (emptied_now or folder.stat().st_mtime <= self.cutoff):
            self._remove(_Found("folder", folder, folder), 0)

    def _remove(self, each: _Found, size: int) -> None:
        if not self.swept.dry_run:
            if each.kind == "folder" and isinstance(each.path, Path):
                each.path.rmdir()
            else:
                each.path.unlink()
        self._gone.add(each.path)
        self._emptied.add(each.path.parent)
        self.swept.bytes += size
        self.swept.removed[each.kind] = self.swept.removed.get(each.kind, 0) + 1
        self.swept.files.append(relative(each.path, self.root))
