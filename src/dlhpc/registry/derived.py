"""Derived files: a version in other formats, each a file of its own beside the version, bound to its digest."""

from __future__ import annotations

from dataclasses import replace

from dlhpc.errors import NotFoundError
from dlhpc.registry import blobs, remarks
from dlhpc.registry.artifact import Artifact
from dlhpc.registry.cache import NodeCache
from dlhpc.registry.derived_record import DerivedFormat, DerivedRecord
from dlhpc.registry.manifest import WEIGHTS_FILE, parse_manifest
from dlhpc.registry.reader import Reader
from dlhpc.registry.refs import short
from dlhpc.weights.file import from_bytes
from dlhpc.weights.quantisation import dequantise, quantise
from dlhpc.weights.table import param_table


def derived(registry: Reader, ref: str) -> tuple[DerivedRecord, ...]:
    """What was derived from a version, oldest first."""
    return remarks.ledger(registry.annotations, registry.resolve(ref), DerivedRecord).all()


def find(registry: Reader, ref: str, form: DerivedFormat, backend: str | None = None) -> DerivedRecord:
    """The newest derivation of a format (and framework). Raises NotFoundError, which says what there is."""
    there = derived(registry, ref)
    for record in reversed(there):
        if record.derivation == form and backend in {None, record.backend}:
            return record
    names = ", ".join(dict.fromkeys(f"{record.derivation} by {record.backend}" for record in there)) or "nothing"
    wanted = form if backend is None else f"{form} by {backend}"
    raise NotFoundError(
        f"{ref} has no {wanted} (there is: {names}); make it: dlhpc registry derive {ref} --format {form}"
    )


def read(registry: Reader, record: DerivedRecord, cache: NodeCache | None = None) -> bytes:
    """The bytes of a derived file, verified. Raises IntegrityError, naming the file, where they are others.

    From a node's `cache` they come as they were hashed when they came there.
    """
    what, file = f"the {record.derivation} file of {short(record.version)}", record.file

    def fetch() -> bytes:
        return blobs.read(registry.blobs, file.sha256, what, file.size)

    return fetch() if cache is None else cache.read(file.sha256, file.size, fetch)


def rounded(artifact: Artifact) -> Artifact:
    """The artifact with its weights as its int8 file has them: made of its own, so that no such file is needed."""
    table = param_table(artifact.manifest.run.model)
    weights = dequantise(table, quantise(table, artifact.weights), f"{short(artifact.digest)} as int8")
    return replace(artifact, weights=weights)


def quantised(registry: Reader, ref: str, cache: NodeCache | None = None) -> Artifact:
    """The artifact of a version with the weights of its int8 file: it predicts in either framework.

    The version's own weights are not read. With a `cache`, the int8 file comes from there (see `read`).
    Raises NotFoundError when no int8 file was derived, IntegrityError when it or the manifest is not as it was written.
    """
    digest = registry.resolve(ref)
    content, where = read(registry, find(registry, f"sha256:{digest}", "int8"), cache), f"the int8 file of {ref}"
    manifest_bytes = registry.manifest_bytes(digest)
    manifest = parse_manifest(manifest_bytes, where)
    weights = dequantise(param_table(manifest.run.model), from_bytes(content, where), where)
    files = {
        name: blobs.read(registry.blobs, entry.sha256, f"{name} of {ref}", entry.size)
        for name, entry in manifest.files.items()
        if name != WEIGHTS_FILE
    }
    return Artifact(manifest, weights, manifest_bytes, registry.load_backend, files)
