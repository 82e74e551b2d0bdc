"""What may stand in the way of a training or a server: ports, stale locks, a damaged registry."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping, Sequence

from dlhpc.backends import load_backend
from dlhpc.doctor.extensions import extensions_folder, stale_locks
from dlhpc.doctor.finding import Finding
from dlhpc.errors import DlhpcError, NotFoundError
from dlhpc.holders import holder_of_port
from dlhpc.registry.places import Place
from dlhpc.registry.store import Registry
from dlhpc.registry.verification import verify


def check_ports(ports: Mapping[int, str]) -> Iterator[Finding]:
    """Whether a server can listen on each port (port -> what for), and who is in the way."""
    for port, purpose in ports.items():
        subject = f"port {port} ({purpose})"
        problem = _cannot_listen(port)
        if problem is None:
            yield Finding(subject, "ok", "free")
            continue
        holder = holder_of_port(port)
        found = f"{problem}: held by {holder or 'a process that this user may not see'}"
        stop = f"kill {holder.pid}" if holder else f"ss -ltnp 'sport = :{port}' as root names it"
        yield Finding(subject, "warn", found, f"stop it ({stop}), or serve elsewhere: dlhpc serve --help")


def _cannot_listen(port: int) -> str | None:
    with socket.socket() as probe:
        # As servers do: a connection that is only winding down does not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            return os.strerror(error.errno) if error.errno else str(error)
    return None


def check_extension_locks(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Locks that killed builds of C++ extensions left behind: whoever needs such an extension waits for ever."""
    folder = extensions_folder(environ)
    locks = stale_locks(folder) if folder.is_dir() else []
    for lock in locks:
        yield Finding("extension lock", "fail", f"{lock} is left from a killed build: training may hang", f"rm {lock}")
    if not locks:
        yield Finding("extension locks", "ok", f"none stale in {folder}")


def check_registry(folder: Place | str, deep: bool) -> Iterator[Finding]:
    """Whether the registry can be read; `deep`: whether every file in it is as it was published."""
    registry = Registry(folder, load_backend)
    try:
        versions: Sequence[object] = registry.list()
        problems = verify(registry).problems if deep else []
    except NotFoundError:
        yield Finding("registry", "ok", f"none in {folder} yet: the first training makes it")
        return
    except DlhpcError as error:
        yield Finding("registry", "fail", str(error), "restore the folder from a copy, or publish elsewhere")
        return
    for problem in problems:
        yield Finding("registry", "fail", problem, "restore the file from a copy, or train and publish again")
    if not problems:
        verified = ", every file verified" if deep else ""
        yield Finding("registry", "ok", f"{len(versions)} names in {folder}{verified}")
