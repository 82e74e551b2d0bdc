"""Processes that read one version through one cache at once: python -m tests.registry.cache_readers ROOT READERS."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from unittest.mock import patch

from dlhpc.backends import load_backend
from dlhpc.registry import manifest
from dlhpc.registry.cache import NodeCache
from dlhpc.registry.manifest import WEIGHTS_FILE
from dlhpc.registry.store import Registry
from tests.registry.samples import sample
from tests.registry.writers import forked


def main() -> None:
    """Publish, let the readers begin together, and print who succeeded and how often the weights were hashed."""
    root, readers = Path(sys.argv[1]), int(sys.argv[2])
    registry = Registry(root / "registry", load_backend)
    registry.publish(sample(), "pets")
    size = sample().manifest.files[WEIGHTS_FILE].size
    ready, go = os.pipe()

    def read() -> None:
        os.close(go)
        os.read(ready, 1)

        def counted(content: bytes) -> str:
            if len(content) == size:
                with (root / "hashes").open("ab", buffering=0) as file:
                    file.write(b".")
            return manifest.sha256(content)

        with patch("dlhpc.registry.blobs.sha256", counted):
            artifact = registry.get("pets", verify="cached", cache=NodeCache(root / "cache"))
        assert artifact.digest == sample().digest

    children = [forked(read) for _ in range(readers)]
    os.close(go)
    results = [os.waitpid(child, 0)[1] for child in children]
    print(sum(result == 0 for result in results), "readers,", len((root / "hashes").read_bytes()), "hash")


if __name__ == "__main__":
    main()
