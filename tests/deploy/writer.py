"""Work on a registry in an object store, in a process of its own.

python -m tests.deploy.writer publish URL FIRST COUNT     prints `ready`, waits for a line, then publishes
python -m tests.deploy.writer verify URL                  prints what was found, as JSON
python -m tests.deploy.writer big URL MEGABYTES           publishes a big file twice; prints the parts each time sent
python -m tests.deploy.writer copy SOURCE URL             copies every version of `pets` to a folder and back
python -m tests.deploy.writer sweep URL                   a sweep on what a dead writer left, two days later
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

from dlhpc.backends import load_backend
from dlhpc.registry import blobs, gc, parts
from dlhpc.registry.exchange import copy
from dlhpc.registry.places import place
from dlhpc.registry.store import Registry
from dlhpc.registry.verification import verify
from tests.registry.samples import sample
from tests.registry.writers import leave


def publish(url: str, first: str, count: str) -> None:
    """Publish `count` versions, from seed `first` on, and move an alias with each."""
    registry = Registry(url, load_backend)
    artifacts = [sample(seed) for seed in range(int(first), int(first) + int(count))]
    print("ready", flush=True)
    sys.stdin.readline()
    for artifact in artifacts:
        registry.publish(artifact, "pets", alias="production")


def look(url: str) -> None:
    """Read and hash everything."""
    registry = Registry(url, load_backend)
    moves = registry.history("pets", "production")
    found = {
        **asdict(verify(registry)),
        "numbers": [version.number for version in registry.list("pets")],
        "digests": sorted(version.digest for version in registry.list("pets")),
        "moves": len(moves),
        "chained": all(move.moved_from == before.moved_to for before, move in pairwise(moves)),
    }
    print(json.dumps(found))


def big(url: str, megabytes: str) -> None:
    """Put a big file, remove one of its parts as if the upload had ended there, and put it again."""
    root = place(url) / "blobs"
    content = b"".join(number.to_bytes(4, "big") * 2**18 for number in range(int(megabytes)))
    told: list[int] = []
    digest = blobs.put(root, content)
    there = parts.parts_of(blobs.content_path(root, digest))
    there[-1].unlink()
    blobs.put(root, content, progress=lambda what, done, total: told.append(done))
    same = blobs.read(root, digest, "a big file", len(content)) == content
    print(json.dumps({"parts": len(there), "told": told, "same": same, "size": len(content)}))


def exchange(folder: str, url: str) -> None:
    """Copy versions to a folder, and one from there back under another name."""
    store, here = Registry(url, load_backend), Registry(folder, load_backend)
    copied = [copy(store, here, version.ref).digest for version in store.list("pets")]
    back = copy(here, store, "pets:1", name="returned", alias="home")
    print(json.dumps({"copied": sorted(copied), "back": back.ref, "problems": verify(here).problems}))


def sweep(url: str) -> None:
    """What a writer left that died before its label goes after a day."""
    registry = Registry(url, load_backend)
    leave(registry, sample(900))
    young = gc.sweep(registry)
    old = gc.sweep(registry, now=lambda: time.time() + 2 * 86400)
    problems = verify(registry).problems
    print(json.dumps({"young": young.young, "kept": young.removed, "removed": old.removed, "problems": problems}))


if __name__ == "__main__":
    assert Path("tests").is_dir()
    actions = {"publish": publish, "verify": look, "big": big, "copy": exchange, "sweep": sweep}
    actions[sys.argv[1]](*sys.argv[2:])
