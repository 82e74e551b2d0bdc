"""Starts a module of the tests as two processes that train together, as a launcher would."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path


def run_in_two_processes(module: str, arguments: list[str], checkout: Path, *, timeout: float = 240.0) -> None:
    """`python -m MODULE ARGUMENTS` once per rank; both must end well, without a word on stdout."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(2):
        launch = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
        environ = os.environ | launch | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        command = [sys.executable, "-m", module, *arguments]
        processes.append(subprocess.Popen(command, env=environ, cwd=checkout, stdout=subprocess.PIPE, text=True))
    try:
        outputs = [process.communicate(timeout=timeout)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0]
    assert outputs == ["", ""]
