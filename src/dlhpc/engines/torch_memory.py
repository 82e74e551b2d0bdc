"""The C library's habit of giving memory back to the system between two steps or two answers, switched off."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # malloc.h
_PARAMETERS = {
    _TRIM_THRESHOLD: ("MALLOC_TRIM_THRESHOLD_", 1 << 30),
    _TOP_PAD: ("MALLOC_TOP_PAD_", 1 << 26),
    _MMAP_THRESHOLD: ("MALLOC_MMAP_THRESHOLD_", 1 << 30),
}


def keep_freed_memory(environ: Mapping[str, str]) -> bool:
    """Let glibc keep what one step frees for the next; what the user set in the environment stays. True if done.

    Otherwise each step of a small convolutional network on a CPU takes thousands of page faults, a third of its time;
    so does each answer to a large batch.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library than glibc
        return False
    taken = [mallopt(key, value) == 1 for key, (name, value) in _PARAMETERS.items() if name not in environ]
    return all(taken)
