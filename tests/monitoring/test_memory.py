import mmap
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from dlhpc.monitoring import memory

SIZE = 200_000_000
linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the kernel's account is Linux's")


@contextmanager
def holding():
    """Memory of the system's own, which it gets back at the end whatever the C library likes to keep."""
    with mmap.mmap(-1, SIZE) as held:
        np.frombuffer(held, np.uint8)[:] = 1
        yield


def test_what_is_held_shows():
    before = memory.resident()
    with holding():
        assert memory.resident() >= before + 0.9 * SIZE
        assert memory.peak_resident() >= before + 0.9 * SIZE


@linux
def test_a_peak_is_forgotten():
    with holding():
        peak = memory.peak_resident()
    assert memory.peak_resident() > peak - 0.5 * SIZE
    memory.forget_peak()
    assert memory.peak_resident() < peak - 0.5 * SIZE


@linux
def test_a_small_process_of_a_large_one_is_small():
    """getrusage would tell the parent's peak."""
    code = "from dlhpc.monitoring.memory import peak_resident; print(peak_resident())"
    with holding():
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert 0 < int(said) < SIZE


def test_other_systems_tell_by_getrusage(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "absent")
    monkeypatch.setattr(memory, "_CLEAR", tmp_path / "absent" / "too")
    assert memory.resident() == memory.peak_resident() > 10**7
    memory.forget_peak()
    assert memory.peak_resident() > 10**7
