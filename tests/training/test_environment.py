"""What decides the last bits."""

from __future__ import annotations

import platform

import numpy as np
import pytest

from dlhpc.training.environment import differences, environment


def test_it_names_versions_machine_and_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    found = environment("flax")
    assert found["numpy"] == np.__version__
    assert found["python"] == platform.python_version()
    assert found["threads"] == "3"
    assert found["jax"] != "absent"
    assert "torch" in environment("torch")
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert int(environment("flax")["threads"]) >= 1


def test_an_absent_package_is_said_to_be() -> None:
    from dlhpc.training import environment as module

    assert module._version("no-such-package-anywhere") == "absent"


def test_differences_are_worded() -> None:
    then, now = {"jax": "1", "numpy": "2", "old": "0"}, {"jax": "1", "numpy": "3", "new": "0"}
    assert differences(then, now) == ["numpy: 2 then, 3 now", "old: 0 then, absent now", "new: absent then, 0 now"]
    assert differences(then, then) == []
