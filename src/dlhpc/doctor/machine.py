"""Processors, memory, accelerators, shared memory and room for files."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from dlhpc.doctor.finding import Finding

GIB = 2**30
MEMORY_NEEDED = 4 * GIB
SHARED_MEMORY_NEEDED = 256 * 2**20
ROOM_NEEDED = 2 * GIB
LONGEST_TEMPORARY_PATH = 45
"""Ray puts sockets below the temporary folder, whose whole path may have 107 bytes."""


def check_processors() -> Iterator[Finding]:
    """Processors that this process may use."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield Finding("processors", "ok", f"{usable} of {os.cpu_count()} usable")


def check_memory(
    meminfo: Path = Path("/proc/meminfo"), limits: Path = Path("/sys/fs/cgroup/memory.max")
) -> Iterator[Finding]:
    """Memory that is available now, within the container's limit."""
    available = _available(meminfo)
    if available is None:
        yield Finding("memory", "ok", "unknown on this platform")
        return
    with suppress(OSError, ValueError):
        available = min(available, int(limits.read_text()))
    text = f"{available / GIB:.1f} GiB available"
    if available < MEMORY_NEEDED:
        mend = "close other programs, or raise the container's limit: the demo takes about 4 GiB"
        yield Finding("memory", "warn", text, mend)
    else:
        yield Finding("memory", "ok", text)


def _available(meminfo: Path) -> int | None:
    with suppress(OSError):
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def check_shared_memory(folder: Path = Path("/dev/shm")) -> Iterator[Finding]:
    """/dev/shm, where Ray keeps its objects and processes exchange tensors."""
    if not folder.is_dir():
        yield Finding("shared memory", "ok", "none on this platform; files in the temporary folder are used")
        return
    free = shutil.disk_usage(folder).free
    text = f"{free / GIB:.2f} GiB free in {folder}"
    if free < SHARED_MEMORY_NEEDED:
        mend = f"remove old files there ({folder}), or give a container more: docker run --shm-size=1g"
        yield Finding("shared memory", "warn", text, mend)
    else:
        yield Finding("shared memory", "ok", text)


def check_room(folder: Path | None = None, here: Path | None = None) -> Iterator[Finding]:
    """Disk space for temporary files, and for runs and registry in the working folder."""
    temporary = folder or Path(tempfile.gettempdir())
    for subject, place in (("temporary folder", temporary), ("working folder", here or Path.cwd())):
        free = shutil.disk_usage(place).free
        text = f"{free / GIB:.1f} GiB free in {place}"
        if not os.access(place, os.W_OK):
            yield Finding(subject, "fail", f"{place} cannot be written", "work in a folder of yours, or set TMPDIR")
        elif free < ROOM_NEEDED:
            yield Finding(subject, "warn", text, "free some space, or set TMPDIR to a larger disk")
        else:
            yield Finding(subject, "ok", text)
    if len(os.fsencode(temporary)) > LONGEST_TEMPORARY_PATH:
        found = f"{temporary} is longer than {LONGEST_TEMPORARY_PATH} characters: Ray's sockets may not fit below it"
        yield Finding("temporary folder's name", "warn", found, "set TMPDIR to a shorter path, such as /tmp")


def check_accelerators(
    which: Callable[[str], str | None] = shutil.which, installed: Callable[[str], str] = version
) -> Iterator[Finding]:
    """NVIDIA devices, and whether the installed builds can use them."""
    program = which("nvidia-smi")
    if program is None:
        yield Finding("accelerators", "ok", "none found (no nvidia-smi): everything runs on the processor")
        return
    query = [program, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        yield Finding("accelerators", "warn", f"nvidia-smi fails: {error}", "reinstall or restart the NVIDIA driver")
        return
    yield Finding("accelerators", "ok", "; ".join(done.stdout.strip().splitlines()) or "no device")
    yield from _check_builds(installed)


def _check_builds(installed: Callable[[str], str]) -> Iterator[Finding]:
    def has(package: str) -> str | None:
        with suppress(PackageNotFoundError):
            return installed(package)
        return None

    torch = has("torch")
    if torch and torch.endswith("+cpu"):
        found = f"torch {torch} is a CPU build: PyTorch will not use the accelerator"
        yield Finding("torch build", "warn", found, "install a CUDA build: https://pytorch.org/get-started/locally/")
    if has("jax") and not (has("jax-cuda12-plugin") or has("jax-cuda13-plugin")):
        found = "jax has no CUDA plugin: JAX will not use the accelerator"
        yield Finding("jax build", "warn", found, "pip install 'jax[cuda13]' (or cuda12 for an older driver)")
