"""Which process holds a file open or listens on a port, read from Linux's /proc; elsewhere nobody is found."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
LISTEN = "0A"


@dataclass(frozen=True)
class Holder:
    """A running process."""

    pid: int
    command: str
    """Its command line, the arguments separated by spaces."""

    def __str__(self) -> str:
        return f"process {self.pid} ({self.command[:80]})"


def holder_of_file(path: Path) -> Holder | None:
    """A process that has `path` open; None when there is none that this user may look into."""
    return _holder({str(path.resolve())})


def holder_of_port(port: int) -> Holder | None:
    """A process that listens on the TCP `port`, at whatever address; None when none can be seen."""
    return _holder({f"socket:[{inode}]" for inode in _listening_inodes(port)})


def _listening_inodes(port: int) -> Iterator[str]:
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in (PROC / "net" / table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                    yield fields[9]


def _holder(targets: set[str]) -> Holder | None:
    if not targets or not PROC.is_dir():
        return None
    for process in PROC.iterdir():
        if process.name.isdigit() and _has_open(process, targets):
            return Holder(int(process.name), _command(process))
    return None


def _has_open(process: Path, targets: set[str]) -> bool:
    # Processes end, and those of other users refuse, while we look.
    with suppress(OSError):
        for descriptor in (process / "fd").iterdir():
            with suppress(OSError):
                if os.readlink(descriptor) in targets:
                    return True
    return False


def _command(process: Path) -> str:
    with suppress(OSError):
        return (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return "unknown"
