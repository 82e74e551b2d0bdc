import os

import numpy as np

from dlhpc.monitoring.machine import hardware, usable_cores, versions


def test_hardware_is_described():
    found = hardware()
    assert set(found) == {"processor", "cores", "memory_gib", "system"}
    assert found["processor"]
    assert 1 <= found["cores"] == usable_cores() <= os.cpu_count()
    assert found["memory_gib"] * 2**30 > 10**8


def test_versions_are_those_of_installed_packages():
    assert versions(["numpy", "no-such-package-of-anybody"]) == {"numpy": np.__version__}
