"""The processes under one, and what they listen on, as Linux tells."""

from __future__ import annotations

import ipaddress
import os
import sys
from contextlib import suppress
from pathlib import Path

LISTEN = "0A"


def tree(root: int) -> set[int]:
    """A process and all its descendants."""
    children: dict[int, set[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, set()).add(int(entry.name))
    found, todo = {root}, [root]
    while todo:
        for child in children.get(todo.pop(), set()) - found:
            found.add(child)
            todo.append(child)
    return found


def listening(pids: set[int]) -> set[tuple[str, int]]:
    """(address, port) of every TCP socket on which one of the processes listens."""
    inodes = {
        os.readlink(descriptor).removeprefix("socket:[").removesuffix("]")
        for pid in pids
        for descriptor in _descriptors(pid)
        if _is_socket(descriptor)
    }
    return {
        (_address(fields[1].partition(":")[0]), int(fields[1].partition(":")[2], 16))
        for table in ("tcp", "tcp6")
        for fields in (line.split() for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:])
        if fields[3] == LISTEN and fields[9] in inodes
    }


def _descriptors(pid: int) -> list[Path]:
    with suppress(OSError):
        return list(Path(f"/proc/{pid}/fd").iterdir())
    return []


def _is_socket(descriptor: Path) -> bool:
    with suppress(OSError):
        return os.readlink(descriptor).startswith("socket:[")
    return False


def _address(text: str) -> str:
    """Hexadecimal words in the machine's byte order, as /proc/net writes them."""
    words = [bytes.fromhex(text[start : start + 8]) for start in range(0, len(text), 8)]
    packed = b"".join(word[::-1] if sys.byteorder == "little" else word for word in words)
    address = ipaddress.ip_address(packed)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)
