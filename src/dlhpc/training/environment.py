"""What besides the spec decides the last bits of a run: versions, machine and threads."""

from __future__ import annotations

import os
import platform
from importlib import metadata

from dlhpc.spec.run import Backend

PACKAGES: dict[Backend, tuple[str, ...]] = {"flax": ("jax", "jaxlib", "flax"), "torch": ("torch", "deepspeed")}


def environment(backend: Backend) -> dict[str, str]:
    """Names -> values, as a checkpoint's manifest stores them."""
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {
        "backend": backend,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "threads": os.environ.get("OMP_NUM_THREADS") or str(threads),
        **{package: _version(package) for package in ("numpy", *PACKAGES[backend])},
    }


def differences(then: dict[str, str], now: dict[str, str]) -> list[str]:
    """One text per value that is not what it was: `jax: 0.10.1 then, 0.10.2 now`."""
    names = [*then, *(name for name in now if name not in then)]
    return [
        f"{name}: {then.get(name, 'absent')} then, {now.get(name, 'absent')} now"
        for name in names
        if then.get(name) != now.get(name)
    ]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"
