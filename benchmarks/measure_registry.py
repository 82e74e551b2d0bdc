"""How long a registry takes: with many versions of one name, or to load a large one in each mode of verification.

    python benchmarks/measure_registry.py --versions 10000
    python benchmarks/measure_registry.py --load-mb 100

The store of many versions is built by real publications, of manifests that differ in one metric. While it is built
nothing is flushed to the disk; what is measured flushes as always. Loading is measured in alternating rounds, beside
hashlib and a plain read of the same file, with all of it in the page cache.
"""

import argparse
import hashlib
import json
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

from dlhpc.api import Registry
from dlhpc.backends import load_backend
from dlhpc.registry import blobs
from dlhpc.registry.artifact import Artifact, new_artifact
from dlhpc.registry.cache import NodeCache
from dlhpc.registry.manifest import WEIGHTS_FILE
from dlhpc.spec.data import SyntheticSpec
from dlhpc.spec.model import MLPSpec
from dlhpc.spec.run import RunSpec
from dlhpc.weights.init import initial_weights
from dlhpc.weights.table import param_table

REPEATS = 9


def untrained(*hidden_sizes: int) -> Artifact:
    """A model of 16 inputs and three classes."""
    model = MLPSpec(input_shape=(4, 4, 1), num_classes=3, hidden_sizes=hidden_sizes)
    run = RunSpec(model=model, data=SyntheticSpec(image_shape=(4, 4, 1), num_classes=3, num_examples=200))
    return new_artifact(
        run,
        initial_weights(param_table(model), 0),
        classes=("cat", "dog", "eel"),
        metrics={"accuracy": 0.0},
        data_fingerprint="ab" * 32,
        load_backend=load_backend,
    )


def version(artifact: Artifact, number: int) -> Artifact:
    """Another version: the same weights, said to do better."""
    manifest = artifact.manifest.model_copy(update={"metrics": {"accuracy": number / 2**20}})
    return replace(artifact, manifest=manifest, manifest_bytes=manifest.to_bytes())


def measure(work: Callable[[], object]) -> dict[str, float]:
    """Milliseconds, over repeats: the median and the least."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - start))
    return {"median_ms": round(statistics.median(times), 2), "least_ms": round(min(times), 2)}


def loading(folder: Path, megabytes: float) -> dict[str, object]:
    """Milliseconds, wall and CPU, of reading and of loading one version of about that size."""
    artifact = untrained(2048, int(megabytes * 1e6 / 4 / 2048))
    registry = Registry(folder / "registry")
    registry.publish(artifact, "pets")
    cache = NodeCache(folder / "cache")
    path = blobs.content_path(registry.blobs, artifact.manifest.digests[WEIGHTS_FILE])
    content = path.read_bytes()
    logging.disable()  # the warning of every fast load
    actions: dict[str, Callable[[], object]] = {
        "hashlib.sha256 of the bytes": lambda: hashlib.sha256(content).hexdigest(),
        "plain read of the file": path.read_bytes,
        "read, full": lambda: registry.read("pets"),
        "read, cached": lambda: registry.read("pets", verify="cached", cache=cache),
        "read, fast": lambda: registry.read("pets", verify="fast"),
        "get, full": lambda: registry.get("pets"),
        "get, cached": lambda: registry.get("pets", verify="cached", cache=cache),
        "get, fast": lambda: registry.get("pets", verify="fast"),
    }
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in actions}
    for _ in range(REPEATS + 1):  # the first round warms up, and fills the cache
        for name, work in actions.items():
            start, cpu = time.perf_counter(), time.process_time()
            work()
            taken[name].append((1000 * (time.perf_counter() - start), 1000 * (time.process_time() - cpu)))
    rows: dict[str, dict[str, float]] = {}
    for name, times in taken.items():
        wall, cpu_times = zip(*times[1:], strict=True)
        rows[name] = {
            "median_ms": round(statistics.median(wall), 2),
            "least_ms": round(min(wall), 2),
            "cpu_ms": round(statistics.median(cpu_times), 2),
        }
    return {"megabytes": round(len(content) / 1e6, 1), **rows}


def main() -> None:
    """Build, measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--versions", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, help="keep the store here; built only if it is not there yet")
    parser.add_argument("--load-mb", type=float, help="measure the loading of a version of this size instead")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        if arguments.load_mb is not None:
            print(json.dumps(loading(Path(temporary), arguments.load_mb), indent=2))
            return
        registry = Registry(arguments.folder or Path(temporary) / "registry")
        artifact, count = untrained(5), arguments.versions
        if not registry.root.exists():
            with patch.object(os, "fsync"):
                for number in range(count):
                    registry.publish(version(artifact, number), "pets")
                registry.set_alias("pets", "production", f"pets:{count // 2}")
        fresh = iter(range(count, count + 1000))
        sought = registry.resolve(f"pets:{count // 3}")
        actions: dict[str, Callable[[], object]] = {
            "resolve an alias": lambda: registry.resolve("pets@production"),
            "resolve a label": lambda: registry.resolve(f"pets:{count}"),
            "list the name": lambda: registry.list("pets"),
            "newest": registry.newest,
            "labels of a version": lambda: registry.labels(sought),
            "publish a new version": lambda: registry.publish(version(artifact, next(fresh)), "pets"),
            "publish one that is there": lambda: registry.publish(version(artifact, count // 3), "pets"),
            "move an alias": lambda: registry.set_alias("pets", "candidate", f"pets:{next(fresh) - count + 1}"),
            "search a metric": lambda: registry.search("accuracy>=0.5"),
            "history": lambda: registry.events("pets"),
            "gc --dry-run": lambda: registry.gc(dry_run=True),
        }
        print(json.dumps({"versions": count, **{name: measure(work) for name, work in actions.items()}}, indent=2))


if __name__ == "__main__":
    main()
