"""dlhpc's side of compare_registries.py: `python benchmarks/dlhpc_side.py FOLDER`, then JSON lines (side.py)."""

import os
import sys
import time
from pathlib import Path
from typing import Any

from dlhpc.api import Registry
from dlhpc.backends import load_backend
from dlhpc.registry import blobs
from dlhpc.registry.artifact import Artifact, new_artifact
from dlhpc.registry.manifest import WEIGHTS_FILE
from dlhpc.registry.verification import verify
from dlhpc.spec.data import SyntheticSpec
from dlhpc.spec.model import MLPSpec
from dlhpc.spec.run import RunSpec
from dlhpc.weights.init import initial_weights
from dlhpc.weights.table import param_table
from side import CLASSES, HIDDEN, IMAGE_SHAPE, IMAGES, kill_publishers, serve

REGISTRY = Registry(Path(sys.argv[1]) / "registry")


def artifact(seed: int, size: str) -> Artifact:
    """A model of first weights."""
    model = MLPSpec(input_shape=IMAGE_SHAPE, num_classes=CLASSES, hidden_sizes=HIDDEN[size])
    data = SyntheticSpec(image_shape=IMAGE_SHAPE, num_classes=CLASSES, num_examples=200)
    return new_artifact(
        RunSpec(model=model, data=data, backend="torch", seed=seed),
        initial_weights(param_table(model), seed),
        classes=[str(each) for each in range(CLASSES)],
        metrics={"accuracy": 0.5},
        data_fingerprint="ab" * 32,
        load_backend=load_backend,
    )


def publish(way: str, name: str, seed: int, size: str) -> dict[str, Any]:
    """Publish a version; its label, and the seconds that publishing took."""
    made = artifact(seed, size)
    start = time.perf_counter()
    digest = REGISTRY.publish(made, name)
    seconds = time.perf_counter() - start
    return {"label": next(v.number for v in REGISTRY.labels(digest) if v.name == name), "seconds": seconds}


def publish_many(way: str, name: str, seeds: list[int]) -> list[int]:
    """Publish small versions, one after another; their labels."""
    return [publish(way, name, seed, "small")["label"] for seed in seeds]


def predict(way: str, name: str, label: int) -> list[float]:
    """Load a version, as servers do, and ask it."""
    return [float(each) for each in REGISTRY.get(f"{name}:{label}").predictor("torch")(IMAGES).ravel()]


def weights_file(way: str, name: str, label: int) -> str:
    """Where the weights of a version lie."""
    entry = REGISTRY.manifest(f"{name}:{label}").files[WEIGHTS_FILE]
    return os.path.abspath(str(blobs.content_path(REGISTRY.blobs, entry.sha256)))


def kill(way: str, kills: int) -> dict[str, Any]:
    """Kill publishers, then look at what they left, before and after a sweep."""
    longest_s = 3 * publish(way, "first", 10**6, "small")["seconds"]
    killed = kill_publishers(
        lambda seed: artifact(seed, "small"),
        lambda seed, made: REGISTRY.publish(made, f"killed-{seed}"),
        kills,
        longest_s,
    )
    found = verify(REGISTRY)
    left = REGISTRY.gc(grace_s=0, dry_run=True).files
    REGISTRY.gc(grace_s=0)
    after = REGISTRY.gc(grace_s=0, dry_run=True).files
    return {
        "killed": killed,
        "versions": found.labels,
        "unusable": len(found.problems),
        "left": len(left),
        "after": len(after),
    }


if __name__ == "__main__":
    serve(
        {
            "publish": publish,
            "publish_many": publish_many,
            "predict": predict,
            "weights_file": weights_file,
            "kill": kill,
        }
    )
