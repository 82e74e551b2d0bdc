"""Signatures of a version: who vouches for it, in a ledger like all that is said of versions (remarks.py).

A digest that lies beside the bytes tells damage; whoever may write to the registry can replace the bytes, the digests
and the records together, all in agreement. A signature is what such a writer cannot make.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path

from dlhpc.errors import IntegrityError
from dlhpc.registry import signing
from dlhpc.registry.places import Place
from dlhpc.registry.record_kinds import Envelope, SignatureRecord, Stamper
from dlhpc.registry.records import record_path
from dlhpc.registry.refs import short
from dlhpc.registry.remarks import ledger
from dlhpc.registry.statements import is_about, statement


def add(
    root: Place, version: str, files: Mapping[str, str], key: signing.PrivateKey, note: str, stamp: Stamper
) -> SignatureRecord:
    """Sign a version with a key; gives the signature that is there already when the same key made one."""
    for old in ledger(root, version, SignatureRecord).all():
        if old.key == key.public.id and _fault(old, version, files, key.public.signed(old.envelope)) is None:
            return old
    return keep(root, version, key.public.id, key.sign(statement(version, files)), note, stamp)


def keep(root: Place, version: str, key: str, envelope: Envelope, note: str, stamp: Stamper) -> SignatureRecord:
    """Add what a key (its id) signed to the signatures of a version; nothing when it is among them."""

    def added(number: int, last: SignatureRecord | None, previous: str | None) -> SignatureRecord:
        at, by, sequence = stamp((last and last.sequence) or 0)
        return SignatureRecord(
            number=number,
            at=at,
            by=by,
            sequence=sequence,
            version=version,
            key=key,
            envelope=envelope,
            note=note,
            previous=previous,
        )

    history = ledger(root, version, SignatureRecord)
    there = [record for record in history.all() if record.envelope == envelope]
    record = there[0] if there else history.extend(added)
    assert record is not None, "a signature is always added"
    return record


def require(
    root: Place, version: str, files: Mapping[str, str], ref: str, keys: Sequence[Path | str]
) -> signing.PublicKey:
    """The first of the `keys` (files with public keys) that signed a version with these files.

    Raises IntegrityError, which says what each signature lacks, when none did; UsageError and NotFoundError where a
    key cannot be used.
    """
    trusted = {key.id: key for key in map(signing.read_public_key, keys)}
    history = ledger(root, version, SignatureRecord)
    faults: list[str] = []
    for record in history.all():
        where = f"signature {record.number} ({record_path(history.folder, record.number)})"
        key = trusted.get(record.key)
        if key is None:
            faults.append(f"{where} is by key {record.key[:12]}, which is not asked for")
            continue
        fault = _fault(record, version, files, key.signed(record.envelope))
        if fault is None:
            return key
        faults.append(f"{where}, said to be by key {record.key[:12]}, {fault}")
    wanted = " or ".join(map(str, trusted.values()))
    found = "; ".join(faults) or "it has no signature"
    raise IntegrityError(
        f"{ref} ({short(version)}) is not signed by {wanted}: {found}. If it is yours: dlhpc registry sign {ref}"
    )


def check(record: SignatureRecord, version: str, files: Mapping[str, str]) -> str | None:
    """What is wrong with a signature, as far as it can be told without its key."""
    return _fault(record, version, files, verified=True)


def _fault(record: SignatureRecord, version: str, files: Mapping[str, str], verified: bool) -> str | None:
    if not is_about(base64.b64decode(record.envelope.payload), version, files):
        return "is of another version"
    if not verified:
        return "does not verify: it was forged or damaged"
    return None
