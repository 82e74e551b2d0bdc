"""Remarks: what is known of a version besides what it is. The version itself never changes; these are added to.

They belong to the digest, so they hold under every name and label of a version. Each kind is a ledger:

    annotations/sha256/ab/<digest>/<kind>/<n>.json

A new kind is a record class with a `folder`, listed in KINDS: it is then verified, swept and numbered with the others.
"""

from __future__ import annotations

from typing import Final, TypeVar

from dlhpc.registry import blobs
from dlhpc.registry.benchmark_record import BenchmarkRecord
from dlhpc.registry.derived_record import DerivedRecord
from dlhpc.registry.ledger import Ledger
from dlhpc.registry.places import Place
from dlhpc.registry.record_kinds import NoteRecord, RemarkRecord, SignatureRecord, TagRecord

A = TypeVar("A", bound=RemarkRecord)

KINDS: Final[tuple[type[RemarkRecord], ...]] = (
    TagRecord,
    NoteRecord,
    SignatureRecord,
    BenchmarkRecord,
    DerivedRecord,
)


def ledger(root: Place, digest: str, kind: type[A]) -> Ledger[A]:
    """The records of one kind about a version; `root` is the registry's `annotations` folder."""
    return Ledger(blobs.content_path(root, digest) / kind.folder, kind, kind.place_of(digest))
