"""Object stores by fsspec: S3, Google Cloud Storage, Azure Blob Storage. The only importer of fsspec.

A registry lies in a bucket as it lies in a folder, key by file. An object appears whole or not at all, and is seen by
every later reader and listing. What a folder's hard link does, a conditional write does here: created if absent, or
refused (S3 If-None-Match, GCS ifGenerationMatch=0, Azure If-None-Match). Credentials and endpoints come from the
environment, as each provider's own tools take them (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL,
AZURE_STORAGE_CONNECTION_STRING, GOOGLE_APPLICATION_CREDENTIALS, STORAGE_EMULATOR_HOST, ...). Listings are never cached.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

from dlhpc.errors import DlhpcError, MissingExtraError, UsageError
from dlhpc.spec.location import OBJECT_SCHEMES

_NEEDS = {"s3": ("s3fs", "s3"), "gs": ("gcsfs", "gcs"), "az": ("adlfs", "azure"), "memory": ("fsspec", "s3")}
"""Scheme -> the package that fsspec asks for it, and the extra that brings it."""
_CHANGED = ("LastModified", "last_modified", "mtime", "updated", "created")
_ONE_AT_A_TIME = threading.Lock()
"""fsspec's memory looks, then writes: within this process, under this lock, that is one step."""


@dataclass(frozen=True)
class ObjectPath:
    """An object, or a prefix of objects, with those methods of pathlib.Path that a registry asks for."""

    scheme: str
    key: str
    """Bucket and key, without a slash at either end."""

    @classmethod
    def parse(cls, url: str) -> ObjectPath:
        """The place of `s3://bucket/prefix` and the like; UsageError where that is none."""
        scheme, mark, key = url.partition("://")
        if not mark or scheme not in OBJECT_SCHEMES or not key.strip("/"):
            raise UsageError(f"{url!r} is no object store: expected {OBJECT_SCHEMES[0]}://bucket/prefix")
        return cls(scheme, key.strip("/"))

    def __str__(self) -> str:
        return f"{self.scheme}://{self.key}"

    def __truediv__(self, name: str) -> ObjectPath:
        return ObjectPath(self.scheme, f"{self.key}/{name}")

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition("/")[2]

    @property
    def parent(self) -> ObjectPath:
        """The prefix that it lies under."""
        return ObjectPath(self.scheme, self.key.rpartition("/")[0])

    def relative_to(self, root: ObjectPath) -> PurePosixPath:
        """The key below a prefix."""
        return PurePosixPath(self.key).relative_to(root.key)

    def exists(self) -> bool:
        """Whether there is such an object, or any under such a prefix."""
        with _telling(self) as system:
            try:
                system.info(self._name)
            except FileNotFoundError:
                return False
        return True

    def read_bytes(self) -> bytes:
        """The object's bytes; FileNotFoundError where there is none."""
        with _telling(self) as system:
            content: bytes = system.cat_file(self._name)
            return content

    def size(self) -> int:
        """Length in bytes; FileNotFoundError where there is no such object."""
        with _telling(self) as system:
            return int(system.info(self._name)["size"])

    def changed_at(self) -> float:
        """When the store took it, by the store's clock, in seconds since 1970."""
        with _telling(self) as system:
            return _seconds(system.info(self._name), self)

    def sizes(self) -> dict[str, int]:
        """Names under this prefix, up to the next slash, with their lengths; empty where there are none."""
        with _telling(self) as system:
            try:
                listed = system.ls(self._name, detail=True)
            except FileNotFoundError:
                return {}
        found = {each["name"].strip("/").rpartition("/")[2]: int(each["size"] or 0) for each in listed}
        # Some tools mark a "folder" by an empty object of its own name.
        return {name: size for name, size in found.items() if name and name != self.name}

    def write_bytes(self, content: bytes | memoryview) -> None:
        """Put the object, in place of whatever is there."""
        with _telling(self) as system:
            system.pipe_file(self._name, bytes(content))

    def create(self, content: bytes | memoryview) -> bool:
        """Put the object if there is none; False when there is another.

        A request whose answer was lost is sent again by the libraries, and then refused: so what is there is looked at.
        """
        return self.put_if_absent(content) or self.read_bytes() == content

    def put_if_absent(self, content: bytes | memoryview) -> bool:
        """One conditional write; False when there is an object."""
        with _telling(self) as system, _ONE_AT_A_TIME if self.scheme == "memory" else _nothing():
            try:
                system.pipe_file(self._name, bytes(content), mode="create")
            except FileExistsError:
                return False
        return True

    def unlink(self) -> None:
        """Remove the object; FileNotFoundError where there is none."""
        with _telling(self) as system:
            system.rm_file(self._name)

    @property
    def _name(self) -> str:
        return f"/{self.key}" if self.scheme == "memory" else self.key


def require_conditions(marker: ObjectPath, content: bytes) -> None:
    """Put a registry's marker, and refuse a store that does not keep the condition of a conditional write.

    Some stores and emulators take such a write and ignore its condition: two writers would then get one label.
    """
    is_new = marker.put_if_absent(content)
    if not is_new or not marker.put_if_absent(content):
        return
    marker.unlink()
    raise DlhpcError(
        f"{marker.parent}: this object store ignores the condition of a conditional write ('create if absent'), so two "
        "writers could take one label: it can be read, but nothing can be published in it"
    )


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@contextmanager
def _telling(path: ObjectPath) -> Iterator[Any]:
    """The file system of a path; what it raises becomes an error of ours, but for missing and existing objects."""
    try:
        yield _file_system(path.scheme)
    except (FileNotFoundError, FileExistsError, DlhpcError):
        raise
    except Exception as error:  # each library has a tree of its own
        said = " ".join(str(error).split()) or type(error).__name__
        raise DlhpcError(f"{path}: the object store cannot be used: {type(error).__name__}: {said[:500]}") from error


def _file_system(scheme: str) -> Any:
    package, extra = _NEEDS[scheme]
    try:
        import fsspec

        system = fsspec.filesystem(scheme, use_listings_cache=False)
    except ImportError as error:
        raise MissingExtraError(f"a registry at {scheme}://", package, extra) from error
    system.invalidate_cache()
    return system


def _seconds(info: dict[str, Any], path: ObjectPath) -> float:
    for key in _CHANGED:
        value = info.get(key)
        if isinstance(value, datetime):
            return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
        if isinstance(value, str) and value:
            return datetime.fromisoformat(value.replace("Z", "+00:00")).timestamp()
        if isinstance(value, int | float):
            return float(value)
    raise DlhpcError(f"{path}: the object store does not say when it was written")
