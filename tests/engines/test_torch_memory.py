"""Memory that a training step frees is there for the next one."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from dlhpc.engines import torch_memory
from dlhpc.engines.torch_memory import keep_freed_memory

FAULTS = """
import os, resource, numpy as np
from dlhpc.engines.torch_memory import keep_freed_memory
if {keep}:
    assert keep_freed_memory(os.environ)
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    before = faults()
    np.ones(48 << 20, np.uint8)
print(faults() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
def test_a_large_array_takes_page_faults_once() -> None:
    """48 MB are more than glibc keeps by itself."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}

    def page_faults(keep: bool) -> int:
        command = [sys.executable, "-c", FAULTS.format(keep=keep)]
        return int(subprocess.run(command, env=environ, check=True, capture_output=True, text=True).stdout)

    assert page_faults(keep=True) < page_faults(keep=False)


def test_the_users_own_settings_stay() -> None:
    names = [name for name, _ in torch_memory._PARAMETERS.values()]
    calls: list[int] = []

    class Library:
        def mallopt(self, key: int, value: int) -> int:
            calls.append(key)
            return 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_memory.ctypes, "CDLL", lambda name: Library())
        assert keep_freed_memory(dict.fromkeys(names[1:], "1"))
    assert calls == [next(iter(torch_memory._PARAMETERS))]


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_memory.ctypes, "CDLL", lambda name: object())
    assert not keep_freed_memory({})
    monkeypatch.setattr(torch_memory.sys, "platform", "darwin")
    assert not keep_freed_memory({})
