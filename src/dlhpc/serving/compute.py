"""With what a replica computes: the framework, and the devices that it may see."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Final

from dlhpc.backends import installed
from dlhpc.registry.artifact import Artifact
from dlhpc.registry.benchmark_process import WorkerProcess
from dlhpc.registry.cache import NodeCache
from dlhpc.registry.faster import Choice, Measuring, choose
from dlhpc.spec.precision import computes_in
from dlhpc.spec.serving import ServingSpec

MEMORY_SHARE: Final = 0.9
"""Of a replica's share of a GPU that JAX takes at once; what is left are the libraries' own needs."""


def backend_of(spec: ServingSpec, artifact: Artifact, is_unwanted: Callable[[], bool] = lambda: False) -> Choice:
    """The framework that serves a version, and why.

    `auto` measures, unless the node remembers; until `is_unwanted`. Raises UsageError when no framework is installed.
    """
    run = artifact.manifest.run
    if spec.backend == "trained":
        return Choice(run.backend, "it trained the model")
    if spec.backend != "auto":
        return Choice(spec.backend, "as configured")
    how = spec.verification
    cache = NodeCache(how.cache_dir, how.cache_bytes)
    start = partial(
        WorkerProcess,
        str(spec.registry),
        artifact.digest,
        precision=computes_in(spec.precision),
        cache_dir=cache.folder if how.mode == "cached" else None,
        environ=measuring_environment(spec.gpus_per_replica),
    )
    return choose(
        Measuring(
            run=run,
            batch_sizes=tuple(sorted({1, spec.batching.max_batch_size})),
            conditions={
                "gpus": f"{spec.gpus_per_replica:g}",
                "precision": computes_in(spec.precision),
                "threads": _threads(),
            },
            start=start,
            cache=cache,
            is_unwanted=is_unwanted,
        ),
        installed(),
    )


def device_environment(gpus: float) -> dict[str, str]:
    """Environment variables of a process with this share of GPUs, to be set before a framework is imported.

    Ray hides the GPUs that belong to others, but none from who asked for none.
    """
    if gpus == 0:
        return {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
    if gpus < 1:  # JAX would take three quarters of the GPU, whoever shares it
        return {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{MEMORY_SHARE * gpus:.3f}"}
    return {}


def measuring_environment(gpus: float) -> dict[str, str]:
    """The environment of a process that is measured in place of a replica."""
    shared = {} if gpus == 0 else {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # both frameworks are there at once
    return {**os.environ, "OMP_NUM_THREADS": _threads(), **device_environment(gpus), **shared}


def _threads() -> str:
    """Of one operation: what Ray gives a replica that books less than a core."""
    return os.environ.get("OMP_NUM_THREADS", "1")
