"""Registries in fsspec's memory, an object store within the process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import fsspec

from dlhpc.registry.stores.object_store import ObjectPath


@contextmanager
def bucket(name: str) -> Iterator[ObjectPath]:
    """A bucket of its own, gone afterwards."""
    system = fsspec.filesystem("memory")
    try:
        yield ObjectPath.parse(f"memory://{name}/models")
    finally:
        for key in [key for key in system.store if key.startswith(f"/{name}/")]:
            del system.store[key]


def keys(root: ObjectPath) -> dict[str, bytes]:
    """Every object under a prefix, by its key below it."""
    store = fsspec.filesystem("memory").store
    prefix = f"/{root.key}/"
    return {key.removeprefix(prefix): store[key].getvalue() for key in sorted(store) if key.startswith(prefix)}
