"""How much of the machine's memory this process holds.

`getrusage` would be simpler, but on Linux a process inherits its parent's peak when it is started: a small one that a
large one started looks as large. The kernel's own account of the address space begins anew.
"""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # proc(5)


def resident() -> int:
    """Bytes that this process holds in memory now; where the system does not tell, the most that it ever held."""
    return _of_kernel("VmRSS") or _of_usage()


def peak_resident() -> int:
    """The most bytes that this process held since `forget_peak`, or since it began."""
    return _of_kernel("VmHWM") or _of_usage()


def forget_peak() -> None:
    """Begin anew with the peak, where the system can (Linux)."""
    with suppress(OSError):
        _CLEAR.write_text(_RESET_PEAK)


def _of_kernel(field: str) -> int:
    with suppress(OSError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    return 0


def _of_usage() -> int:
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
