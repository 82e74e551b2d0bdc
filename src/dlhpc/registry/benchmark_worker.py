"""The process that measures one version in one framework: `python -m dlhpc.registry.benchmark_worker REGISTRY DIGEST
BACKEND PRECISION [CACHE]`, started by benchmark_process.py. With CACHE, a folder, it reads by that cache.

A line of JSON comes in on stdin, a line goes out on stdout, until stdin ends. Whatever libraries print goes to stderr.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from dlhpc.backends import load_backend
from dlhpc.errors import DlhpcError
from dlhpc.monitoring.machine import versions
from dlhpc.monitoring.memory import resident
from dlhpc.ports import Predictor
from dlhpc.registry.artifact import Artifact, load_artifact
from dlhpc.registry.benchmark_record import Beginning
from dlhpc.registry.cache import NodeCache
from dlhpc.registry.reader import Reader
from dlhpc.registry.timing import images, time_calls
from dlhpc.spec.precision import ComputePrecision

PACKAGES = {"flax": ("jax", "jaxlib", "flax"), "torch": ("torch",)}


class Worker:
    """A loaded version that is asked for figures."""

    def __init__(
        self, root: str, digest: str, backend: str, precision: ComputePrecision, cache_dir: Path | None = None
    ) -> None:
        self._precision = precision
        self._cache = None if cache_dir is None else NodeCache(cache_dir)
        self._registry, self._ref, self._backend = Reader(root, load_backend), f"sha256:{digest}", backend
        self._registry.manifest(self._ref)  # a version that is not there shows before the seconds of an import
        _, import_s = _timed(lambda: load_backend(backend))
        (self._artifact, self._predict, _), first_s = _timed(self._load)
        shape = self._artifact.manifest.run.model.input_shape
        assert shape is not None, "an artifact's run is resolved"
        self._shape = shape
        self._warm: dict[tuple[int, str], float] = {}
        device = load_backend(backend).device()
        packages = versions(("deep-learning-hpc-demo", "numpy", *PACKAGES[backend]))
        beginning = Beginning(import_ms=import_s * 1e3, first_load_ms=first_s * 1e3, loaded_mb=resident() / 1e6)
        self.began = {
            "about": {
                "device": device.kind,
                "threads": device.threads,
                "versions": {"python": platform.python_version(), **packages},
            },
            "beginning": beginning.canonical(),
        }

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        """What a line asks for: a round of calls, a load, or the parity."""
        match question:
            case {"ask": "round", "batch_size": size, "dtype": dtype, "seconds": seconds, "calls": calls}:
                inputs = images(size, self._shape, dtype)
                if (size, dtype) not in self._warm:
                    self._warm[size, dtype] = _timed(lambda: self._predict(inputs))[1] * 1e3
                measured = time_calls(self._predict, inputs, seconds=seconds, calls=calls)
                return {"first_call_ms": self._warm[size, dtype], "round": measured.canonical()}
            case {"ask": "load"}:
                (_, _, read_s), load_s = _timed(self._load)
                return {"read_ms": read_s * 1e3, "build_ms": (load_s - read_s) * 1e3}
            case {"ask": "parity"}:
                golden = self._artifact.golden()
                return {"parity": float(np.abs(self._predict(golden.inputs) - golden.outputs).max())}
        raise DlhpcError(f"the worker does not understand {question}")

    def _load(self) -> tuple[Artifact, Predictor, float]:
        (manifest, files), read_s = _timed(self._read)
        artifact = load_artifact(manifest, files, load_backend, self._ref)
        return artifact, artifact.predictor(self._backend, self._precision), read_s

    def _read(self) -> tuple[bytes, dict[str, bytes]]:
        return self._registry.read(self._ref, verify="full" if self._cache is None else "cached", cache=self._cache)


def serve(
    root: str,
    digest: str,
    backend: str,
    questions: IO[str],
    answers: IO[str],
    *,
    precision: ComputePrecision = "float32",
    cache_dir: Path | None = None,
) -> None:
    """Answer until the questions end. A DlhpcError is an answer too, and the last."""
    try:
        worker = Worker(root, digest, backend, precision, cache_dir)
        _say(answers, worker.began)
        for line in questions:
            _say(answers, worker.answer(json.loads(line)))
    except DlhpcError as error:
        _say(answers, {"error": str(error), "status": error.exit_code})


def _say(answers: IO[str], content: dict[str, Any]) -> None:
    answers.write(json.dumps(content) + "\n")
    answers.flush()


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def main() -> None:
    """Keep stdout for answers alone, and serve."""
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        root, digest, backend, precision, *cached = sys.argv[1:]
        serve(
            root,
            digest,
            backend,
            sys.stdin,
            answers,
            precision="bfloat16" if precision == "bfloat16" else "float32",
            cache_dir=Path(cached[0]) if cached else None,
        )


if __name__ == "__main__":
    main()
