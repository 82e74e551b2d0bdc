"""Locks in the folder where torch compiles its C++ extensions.

torch guards each build by a file named `lock` that it creates, keeps open and removes. A build that is killed leaves
the file behind, and every later process waits for it for ever, silently: such a lock is stale, because no process has
it open.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from dlhpc import holders


def extensions_folder(environ: Mapping[str, str]) -> Path:
    """Where torch builds: TORCH_EXTENSIONS_DIR, or its default in the user's cache."""
    chosen = environ.get("TORCH_EXTENSIONS_DIR")
    if chosen:
        return Path(chosen)
    cache = environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(cache) / "torch_extensions"


def stale_locks(folder: Path) -> list[Path]:
    """Lock files below `folder` that no running process holds open; none where that cannot be seen."""
    if not holders.PROC.is_dir():
        return []
    return sorted(lock for lock in folder.rglob("lock") if lock.is_file() and holders.holder_of_file(lock) is None)
