"""Progress on big files: what a caller may be told while bytes are read and written."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Told what is done with which file (`reading weights.safetensors`), the bytes done, and the bytes in all."""


def quiet(what: str, done: int, total: int) -> None:
    """Tell nobody."""
