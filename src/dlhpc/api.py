"""The Python face: what a user imports from `dlhpc`, and what the verbs call."""

from __future__ import annotations

from pathlib import Path

from dlhpc.backends import load_backend
from dlhpc.registry import store


class Registry(store.Registry):
    """The registry in a folder, whose artifacts predict with the frameworks that are installed."""

    def __init__(self, path: Path | str = "registry") -> None:
        super().__init__(path, load_backend)
