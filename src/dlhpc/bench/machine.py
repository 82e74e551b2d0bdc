"""What the benchmarks say of the machine and of the packages they ran with."""

from __future__ import annotations

import platform

from dlhpc.monitoring.machine import hardware, versions

PEERS = ("torch-optimi", "pytorch_optimizer")
"""Optimizer libraries that the benchmarks compare with, where they are installed."""
PACKAGES = ("deep-learning-hpc-demo", "numpy", "jax", "flax", "optax", "torch", "deepspeed", "ray", *PEERS)


def describe() -> dict[str, str | int]:
    """Processor, cores this process may use, memory (GiB), system, Python and package versions."""
    return {**hardware(), "python": platform.python_version(), **versions(PACKAGES)}
