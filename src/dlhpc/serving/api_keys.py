"""API keys: making, storing and recognising them.

A key is `dlhpc_<id>_<secret>`. The secret is 256 random bits, which nobody guesses however fast guesses can be tried;
so a fast hash (HMAC-SHA256 under a salt) protects the file as well as a slow one would, and costs microseconds. Slow
hashes are for passwords, which people choose.
"""

from __future__ import annotations

import fcntl
import hmac
import logging
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from dlhpc.errors import ConfigError, ConflictError, NotFoundError
from dlhpc.files import atomic_path
from dlhpc.spec.api_key import ApiKey, ApiKeys, Priority, Scope
from dlhpc.spec.rates import RateSpec

LOOK_EVERY_S: Final = 1.0
"""How long a change of the file may go unnoticed."""
_FORM: Final = re.compile(rb"dlhpc_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
_log = logging.getLogger(__name__)


def new_key(
    name: str,
    scopes: Sequence[Scope],
    now: datetime,
    *,
    priority: Priority = "normal",
    rate: RateSpec | None = None,
    expires: datetime | None = None,
) -> tuple[str, ApiKey]:
    """A new key's text, to be given to its holder, and what is kept of it. Raises ValidationError for a bad name."""
    number, secret, salt = secrets.token_hex(6), secrets.token_urlsafe(32), secrets.token_bytes(16)
    kept = ApiKey(
        id=number,
        name=name,
        scopes=tuple(dict.fromkeys(scopes)),
        priority=priority,
        rate=rate,
        expires=expires,
        created=now.replace(microsecond=0),
        salt=salt.hex(),
        hash=_hash(salt, secret.encode()).hex(),
    )
    return f"dlhpc_{number}_{secret}", kept


class Keys:
    """Finds the key that a request presents, in a time that does not tell how much of it was right."""

    def __init__(self, keys: ApiKeys) -> None:
        self._by_id = {key.id.encode(): (key, bytes.fromhex(key.salt), bytes.fromhex(key.hash)) for key in keys.keys}

    def find(self, presented: bytes) -> ApiKey | None:
        """The key of which this is the text; None for anything else. It may have expired."""
        parts = _FORM.fullmatch(presented)
        if parts is None:
            return None
        key, salt, expected = self._by_id.get(parts[1], (None, b"", b""))
        return key if hmac.compare_digest(_hash(salt, parts[2]), expected) else None


class KeyFile:
    """The keys of a file, read again when it changed: a key that was removed stops working within LOOK_EVERY_S."""

    def __init__(self, path: Path, now: float) -> None:
        """Raises NotFoundError and ConfigError as `read_keys` does."""
        self._path = path
        self._stamp = _stamp(path)
        self._keys = Keys(read_keys(path))
        self._look_at = now + LOOK_EVERY_S

    def keys(self, now: float) -> Keys:
        """The keys that count now. When the file has become unreadable those before, with an error in the log."""
        if now >= self._look_at:
            self._look_at = now + LOOK_EVERY_S
            stamp = _stamp(self._path)
            if stamp != self._stamp:
                self._stamp = stamp
                try:
                    self._keys = Keys(read_keys(self._path))
                except (ConfigError, NotFoundError) as error:
                    _log.error("the API keys stay as they were: %s", error)
        return self._keys


def read_keys(path: Path) -> ApiKeys:
    """The keys of a file. Raises NotFoundError when there is none, ConfigError when it is no file of keys."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise NotFoundError(
            f"{path}: {error.strerror}; `dlhpc key add NAME --file {path}` makes a file of API keys"
        ) from error
    try:
        return ApiKeys.model_validate_json(text)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, fault["loc"]))
        raise ConfigError(f"{path}: {where + ': ' if where else ''}{fault['msg']}: not a file of API keys") from error


def add_key(path: Path, key: ApiKey) -> None:
    """Add a key to a file, which is made if need be and which only its owner may read.

    Raises ConflictError when the name is taken.
    """

    def change(keys: tuple[ApiKey, ...]) -> tuple[ApiKey, ...]:
        if any(each.name == key.name for each in keys):
            raise ConflictError(f"{path}: there is a key named {key.name!r}: choose another name, or remove that first")
        return (*keys, key)

    _change(path, change)


def remove_key(path: Path, name: str) -> None:
    """Remove a key from a file. Raises NotFoundError when there is none of this name."""

    def change(keys: tuple[ApiKey, ...]) -> tuple[ApiKey, ...]:
        rest = tuple(key for key in keys if key.name != name)
        if len(rest) == len(keys):
            there = ", ".join(key.name for key in keys) or "none"
            raise NotFoundError(f"{path}: there is no key named {name!r}; there are: {there}")
        return rest

    read_keys(path)
    _change(path, change)


def _change(path: Path, change: Callable[[tuple[ApiKey, ...]], tuple[ApiKey, ...]]) -> None:
    with _locked(path):
        keys = read_keys(path) if path.exists() else ApiKeys()
        text = ApiKeys(keys=change(keys.keys)).model_dump_json(indent=2) + "\n"
        with atomic_path(path) as aside:
            aside.touch(mode=0o600)
            aside.write_text(text)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let nobody else change the file meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _stamp(path: Path) -> tuple[int, int] | None:
    """What is another after every change: files of keys are replaced, not written to."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _hash(salt: bytes, secret: bytes) -> bytes:
    return hmac.digest(salt, secret, "sha256")


def is_valid(key: ApiKey, now: datetime) -> bool:
    """Whether a key has not expired."""
    return key.expires is None or now < key.expires
