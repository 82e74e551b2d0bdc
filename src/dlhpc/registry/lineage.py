"""Lineage: from a version, such as the one that is served, back to its run, its data, its code and its parents."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from dlhpc.registry import blobs
from dlhpc.registry.reader import Reader


@dataclass(frozen=True)
class Ancestor:
    """A version that another was made from."""

    digest: str
    generation: int
    """1 for a parent, 2 for a parent's parent, ..."""
    refs: tuple[str, ...]
    """`name:number` of each label that it has here."""
    here: bool
    """Whether this registry holds it; what it was made from in turn is known only then."""


@dataclass(frozen=True)
class Lineage:
    """Where a version comes from."""

    digest: str
    run: str
    """Digest of the resolved run that trained it."""
    run_folders: tuple[str, ...]
    """Folders of the training runs that published it, where they are known."""
    seed: int
    data_source: str
    data_fingerprint: str | None
    commit: str | None
    """Git commit of the code; None outside a checkout."""
    modified: bool | None
    """Whether tracked files differed from that commit."""
    ancestors: tuple[Ancestor, ...]
    """Nearest first."""

    def canonical(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def lineage(registry: Reader, ref: str) -> Lineage:
    """Where a version comes from. Raises what Registry.manifest raises, for the version and its ancestors."""
    digest = registry.resolve(ref)
    manifest = registry.manifest(f"sha256:{digest}")
    folders = {label.run for label in registry.labels(digest) if label.run is not None}
    return Lineage(
        digest=digest,
        run=manifest.run.digest,
        run_folders=tuple(sorted(folders)),
        seed=manifest.run.seed,
        data_source=manifest.run.data.source,
        data_fingerprint=manifest.data_fingerprint,
        commit=None if manifest.code is None else manifest.code.commit,
        modified=None if manifest.code is None else manifest.code.modified,
        ancestors=tuple(_ancestors(registry, manifest.parents)),
    )


def _ancestors(registry: Reader, parents: tuple[str, ...]) -> list[Ancestor]:
    found: dict[str, Ancestor] = {}
    generation, waiting = 1, list(parents)
    while waiting:
        following: list[str] = []
        for digest in waiting:
            if digest not in found:
                here = blobs.content_path(registry.manifests, digest).exists()
                refs = tuple(label.ref for label in registry.labels(digest))
                found[digest] = Ancestor(digest, generation, refs, here)
                following += registry.manifest(f"sha256:{digest}").parents if here else ()
        generation, waiting = generation + 1, following
    return list(found.values())
