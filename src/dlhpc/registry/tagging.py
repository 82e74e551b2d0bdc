"""Tags and notes: what people say about a version after it was published (remarks.py)."""

from __future__ import annotations

import re

from dlhpc.errors import UsageError
from dlhpc.registry.places import Place
from dlhpc.registry.record_kinds import NoteRecord, Stamper, TagRecord
from dlhpc.registry.remarks import ledger

TAG_KEY = r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}"
MAX_TEXT = 65536


def tags(root: Place, digest: str) -> dict[str, str]:
    """The tags of a version now."""
    last = ledger(root, digest, TagRecord).last()
    return dict(last.tags) if last else {}


def set_tag(root: Place, digest: str, key: str, value: str | None, note: str, stamp: Stamper) -> TagRecord | None:
    """Set a tag, or remove it (None). Nothing is written when it stands so already; returns the last change."""

    def change(number: int, last: TagRecord | None, previous: str | None) -> TagRecord | None:
        now = dict(last.tags) if last else {}
        before = now.pop(key, None)
        if value == before:
            return None
        if value is not None:
            now[key] = value
        at, by, sequence = stamp((last and last.sequence) or 0)
        return TagRecord(
            number=number,
            at=at,
            by=by,
            sequence=sequence,
            version=digest,
            key=key,
            before=before,
            after=value,
            tags=now,
            note=note,
            previous=previous,
        )

    return ledger(root, digest, TagRecord).extend(change)


def add_note(root: Place, digest: str, text: str, stamp: Stamper) -> NoteRecord:
    """Add a note to a version."""

    def added(number: int, last: NoteRecord | None, previous: str | None) -> NoteRecord:
        at, by, sequence = stamp((last and last.sequence) or 0)
        return NoteRecord(number=number, at=at, by=by, sequence=sequence, version=digest, text=text, previous=previous)

    note = ledger(root, digest, NoteRecord).extend(added)
    assert note is not None, "a note is always added"
    return note


def check_key(key: str) -> str:
    """Return `key` when it may be a tag's; UsageError otherwise."""
    if not re.fullmatch(TAG_KEY, key):
        raise UsageError(
            f"{key!r} is no valid tag: expected 1 to 128 of letters, digits, '.', '_', '/', '-', "
            "the first a letter or digit"
        )
    return key


def check_text(text: str, what: str) -> str:
    """Return `text` when it can be kept; UsageError when it is too long or no text."""
    if len(text) > MAX_TEXT:
        raise UsageError(f"the {what} has {len(text)} characters, more than {MAX_TEXT}: keep it elsewhere and link it")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"the {what} is no text that can be written as UTF-8: {error.reason}") from error
    return text
