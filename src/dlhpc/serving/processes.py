"""Processes that must be gone when a server is: waiting for them, and ending what stays."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def end_processes(mark: str, *, patience_s: float = 5.0) -> None:
    """Wait a little for processes with `mark` in their command line to end; then end them."""
    if not wait_for(lambda: not marked(mark), patience_s):
        for pid in marked(mark):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def marked(mark: str) -> list[int]:
    """Other processes with `mark` in their command line. Empty where there is no /proc."""
    pids = (int(entry.name) for entry in Path("/proc").glob("[0-9]*"))
    return [pid for pid in pids if pid != os.getpid() and mark in command_line(pid)]


def command_line(pid: int) -> str:
    """A process's command line, empty when it is no more."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    """Look again and again; gives whether the condition came true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True
