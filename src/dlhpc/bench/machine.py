"""The machine a measurement was made on, in words that others can compare with theirs."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

PEERS = ("torch-optimi", "pytorch_optimizer")
"""Optimizer libraries that the benchmarks compare with, where they are installed."""
PACKAGES = ("deep-learning-hpc-demo", "numpy", "jax", "flax", "optax", "torch", "deepspeed", "ray", *PEERS)


def describe() -> dict[str, str | int]:
    """Processor, cores this process may use, memory (GiB), system, Python and package versions."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{package: version for package in PACKAGES if (version := _version(package))},
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
