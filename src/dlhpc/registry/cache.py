"""The node's cache of verified bytes: N processes on one machine hash a file once.

    <digest>          the bytes, read-only
    <digest>.json     what the kernel said of that file when its hashed bytes had been written
    <digest>.lock     locked while the bytes are fetched; its time of change is when they were used last
    <key>.note        something small that was found out on this node, as JSON: faster.py's verdicts

The first process fetches and hashes, writes those bytes aside, and renames them into place. The others open the file,
compare what the kernel says of the open file (device, inode, size, owner, mode, times of change) with the record, read
from it, and compare again. Whatever differs is fetched and hashed anew: a write, a rename, a link, a copy put in its
place, a chmod or a restored backup all set the inode's time of change (ctime), which no program can set back.

So this trusts the kernel, the machine's clock, and processes of the same user and of root: these may write a record
that fits. Nobody else may write to the folder, or it is refused. Who does not trust them reads with `full`.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from dlhpc.errors import UsageError
from dlhpc.files import write_atomic
from dlhpc.registry.manifest import sha256
from dlhpc.spec.base import canonical_json

LOG = logging.getLogger(__name__)
MOST_BYTES: Final = 20 * 10**9
_ASIDE: Final = ".tmp"
_LOCK: Final = ".lock"
_RECORD: Final = ".json"
_NOTE: Final = ".note"
_TRIES: Final = 20


def default_folder(environ: Mapping[str, str]) -> Path:
    """What DLHPC_CACHE_DIR says, or else `dlhpc/verified` in the user's cache folder."""
    named = environ.get("DLHPC_CACHE_DIR")
    if named:
        return Path(named).absolute()
    return Path(environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "dlhpc" / "verified"


class NodeCache:
    """Verified bytes by digest, in a folder that is this user's alone. A cache that cannot be written is no error."""

    def __init__(self, folder: Path | None = None, most_bytes: int = MOST_BYTES) -> None:
        self.folder = default_folder(os.environ) if folder is None else folder
        self.most_bytes = most_bytes

    def read(self, digest: str, size: int, fetch: Callable[[], bytes]) -> bytes:
        """The bytes of a digest: from here, or else what `fetch` gives, which has hashed them, and keep those.

        However many processes ask at once, one fetches and the others wait for it. Raises UsageError when others may
        write to the folder, and what `fetch` raises.
        """
        if size > self.most_bytes or not self._is_there():
            return fetch()
        content = self._kept(digest, size)
        if content is not None:
            return content
        with ExitStack() as stack:
            with self._telling("be locked"):
                stack.enter_context(self._locked(digest))
            content = self._kept(digest, size, quiet=False)  # another process may have been first
            if content is None:
                content = fetch()
                with self._telling("be written"):
                    self._keep(digest, content)
        with self._telling("be bounded"):
            self._evict(digest)
        return content

    def note(self, key: str) -> Any:
        """What was kept under a key, whoever of this user wrote it; None where nothing is, or no JSON.

        Raises UsageError when others may write to the folder.
        """
        if not self._is_there():
            return None
        try:
            return json.loads((self.folder / f"{key}{_NOTE}").read_bytes())
        except (OSError, ValueError):
            return None

    def keep_note(self, key: str, content: Any) -> None:
        """Keep a JSON value under a key; it is never evicted. Raises UsageError when others may write to the folder."""
        if self._is_there():
            with self._telling("be written"):
                write_atomic(self.folder / f"{key}{_NOTE}", canonical_json(content) + b"\n")

    def _is_there(self) -> bool:
        """Make the folder where it is missing; False when that is impossible. Raises UsageError when it is unsafe."""
        with self._telling("be made"):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = self.folder.stat()
            if status.st_uid != os.geteuid():
                raise UsageError(f"{self.folder}: belongs to another user (id {status.st_uid}): {_ANOTHER}")
            if status.st_mode & 0o022:
                mode = f"{status.st_mode & 0o777:03o}"
                raise UsageError(f"{self.folder}: others may write to it (mode {mode}): chmod 700, or {_ANOTHER}")
            return True
        return False

    def _kept(self, digest: str, size: int, *, quiet: bool = True) -> bytes | None:
        """The bytes, if they are as they were left here; else, not `quiet`, a warning: nobody is writing them now."""
        path = self.folder / digest
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError:  # a link, or not ours
            descriptor = None
        if descriptor is not None:
            with open(descriptor, "rb") as file:
                before = _identity(os.fstat(descriptor))
                if before == self._record(digest) and before["size"] == size:
                    content = file.read()
                    if _identity(os.fstat(descriptor)) == before and len(content) == size:
                        with suppress(OSError):
                            os.utime(self.folder / f"{digest}{_LOCK}")
                        return content
        if not quiet:
            LOG.warning("%s: not as it was left here: fetched and hashed again", path)
        return None

    def _keep(self, digest: str, content: bytes) -> None:
        path, aside = self.folder / digest, self.folder / f"{digest}{_ASIDE}"
        aside.unlink(missing_ok=True)  # of a process that was killed: this one holds the lock
        try:
            with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                aside.replace(path)
                identity = _identity(os.fstat(file.fileno()))
        finally:
            aside.unlink(missing_ok=True)
        record = self.folder / f"{digest}{_RECORD}"
        for _ in range(_TRIES):
            write_atomic(record, _sealed(digest, identity))
            # Times of change move in ticks of some milliseconds: a change in the tick that was recorded would not show.
            if record.stat().st_mtime_ns > identity["ctime_ns"]:
                return
        record.unlink()  # the file system's clock is coarse, or was set back

    def _record(self, digest: str) -> dict[str, int] | None:
        """What the kernel said of the file; None where the record is missing, damaged or another file's."""
        try:
            content = (self.folder / f"{digest}{_RECORD}").read_bytes()
            identity: dict[str, int] = json.loads(content)["identity"]
            return identity if _sealed(digest, identity) == content else None
        except (OSError, ValueError, TypeError, KeyError):
            return None

    @contextmanager
    def _locked(self, digest: str, how: int = fcntl.LOCK_EX) -> Iterator[None]:
        """Hold the lock of a digest. Raises OSError where it cannot be had."""
        path = self.folder / f"{digest}{_LOCK}"
        while True:
            with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), "rb") as lock:
                fcntl.flock(lock.fileno(), how)
                if _is_still(lock.fileno(), path):  # else it was evicted while this process waited
                    yield
                    return

    def _evict(self, used: str) -> None:
        """Remove what was not used for longest, until the rest fits. What is being fetched stays."""
        sizes: dict[str, int] = {}
        times: dict[str, float] = {}
        for entry in os.scandir(self.folder):
            if entry.name.endswith(_NOTE):
                continue
            with suppress(FileNotFoundError):
                status, name = entry.stat(follow_symlinks=False), entry.name.split(".")[0]
                sizes[name] = sizes.get(name, 0) + status.st_size
                if entry.name.endswith(_LOCK):
                    times[name] = status.st_mtime
        total = sum(sizes.values())
        for name in sorted(sizes, key=lambda name: times.get(name, 0.0)):
            if total <= self.most_bytes or name == used or not name:
                continue
            with suppress(OSError), self._locked(name, fcntl.LOCK_EX | fcntl.LOCK_NB):
                for suffix in ("", _RECORD, _ASIDE, _LOCK):
                    (self.folder / f"{name}{suffix}").unlink(missing_ok=True)
                total -= sizes[name]

    @contextmanager
    def _telling(self, what: str) -> Iterator[None]:
        """Go on without the cache where the disk is full or read-only, or has no locks."""
        try:
            yield
        except OSError as error:
            LOG.warning("%s: the cache cannot %s (%s): going on without", self.folder, what, error.strerror)


_ANOTHER: Final = "name another folder with verification.cache_dir, or verify in full"


def _identity(status: os.stat_result) -> dict[str, int]:
    return {
        "device": status.st_dev,
        "inode": status.st_ino,
        "size": status.st_size,
        "mode": status.st_mode,
        "owner": status.st_uid,
        "mtime_ns": status.st_mtime_ns,
        "ctime_ns": status.st_ctime_ns,
    }


def _sealed(digest: str, identity: dict[str, int]) -> bytes:
    fields = {"digest": digest, "identity": identity}
    return canonical_json({**fields, "sha256": sha256(canonical_json(fields))}) + b"\n"


def _is_still(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False
