"""References: how a user names a version, and which names are allowed at all.

digits-mlp               the newest version of a name
digits-mlp:3             a label
digits-mlp@production    an alias
sha256:5f0c2a9e...       the version itself, by 8 or more digits of its digest
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from dlhpc.errors import UsageError

NAME = r"[a-z0-9][a-z0-9._-]{0,127}"
"""Pattern of names and aliases, which are file names too."""
_LABEL = re.compile(r"[1-9][0-9]{0,8}")
_DIGEST = re.compile(r"[0-9a-f]{8,64}")
_RESERVED = "sha256"
_EXPECTED = "expected 'name', 'name:3', 'name@alias' or 'sha256:<8 to 64 hex digits>'"


@dataclass(frozen=True)
class NewestRef:
    """The version with the highest label of a name."""

    name: str


@dataclass(frozen=True)
class LabelRef:
    """A numbered version of a name."""

    name: str
    number: int


@dataclass(frozen=True)
class AliasRef:
    """The version that an alias of a name stands for."""

    name: str
    alias: str


@dataclass(frozen=True)
class DigestRef:
    """The version whose digest begins like this."""

    prefix: str


Ref = NewestRef | LabelRef | AliasRef | DigestRef


def check_name(text: str, what: str = "name") -> str:
    """Return `text` when it may name a model or an alias; UsageError otherwise.

    Names become file names: lower-case ASCII letters, digits, '.', '_' and '-' only, so no name leaves its folder or
    collides with another on a file system that ignores case.
    """
    if not re.fullmatch(NAME, text) or text == _RESERVED:
        raise UsageError(
            f"{text!r} is no valid {what}: expected 1 to 128 of a-z, 0-9, '.', '_', '-', "
            f"the first a letter or digit, and not '{_RESERVED}'"
        )
    return text


def parse_ref(text: str) -> Ref:
    """Read a reference; UsageError when it has none of the four forms."""
    if text.startswith(f"{_RESERVED}:"):
        prefix = text.removeprefix(f"{_RESERVED}:")
        if not _DIGEST.fullmatch(prefix):
            raise UsageError(f"{text!r} is no reference: {_EXPECTED}")
        return DigestRef(prefix)
    head, mark, tail = _split(text)
    if not re.fullmatch(NAME, head) or head == _RESERVED:
        raise UsageError(f"{text!r} is no reference: {_EXPECTED}, with names of a-z, 0-9, '.', '_', '-'")
    match mark:
        case "":
            return NewestRef(head)
        case ":" if _LABEL.fullmatch(tail):
            return LabelRef(head, int(tail))
        case "@" if re.fullmatch(NAME, tail):
            return AliasRef(head, tail)
    raise UsageError(f"{text!r} is no reference: {_EXPECTED}")


def _split(text: str) -> tuple[str, str, str]:
    for mark in ":@":
        head, found, tail = text.partition(mark)
        if found:
            return head, found, tail
    return text, "", ""


def short(digest: str) -> str:
    """A digest as people read it: `sha256:` and twelve digits."""
    return f"sha256:{digest[:12]}"
