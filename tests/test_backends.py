"""Loading a framework by name."""

from __future__ import annotations

import importlib.util
import os
import sys

import pytest

from dlhpc.backends import installed, load_backend
from dlhpc.errors import MissingExtraError, UsageError


@pytest.mark.parametrize("name", ["flax", "torch"])
def test_both_frameworks_load(name: str) -> None:
    assert load_backend(name).name == name


@pytest.mark.parametrize("name", ["flax", "torch"])
def test_they_say_where_they_compute(name: str) -> None:
    device = load_backend(name).device()
    assert device.kind == "cpu"
    assert 1 <= device.threads <= (os.cpu_count() or 1)


def test_another_name_is_refused() -> None:
    with pytest.raises(UsageError, match="backend 'tensorflow' is unknown: it is one of 'flax', 'torch'"):
        load_backend("tensorflow")


@pytest.mark.parametrize(("name", "package"), [("flax", "jax"), ("flax", "optax"), ("torch", "torch")])
def test_a_missing_framework_says_what_to_install(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [module for module in sys.modules if module.startswith(("dlhpc.engines", "dlhpc.models"))]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.delitem(sys.modules, f"dlhpc.optimizers.{name}_optimizers", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"'{package}': pip install 'deep-learning-hpc-demo\[{name}\]'"):
        load_backend(name)


def test_a_missing_module_of_our_own_is_no_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [module for module in sys.modules if module.startswith("dlhpc.engines")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "dlhpc.engines.flax_backend", None)
    with pytest.raises(ModuleNotFoundError, match="flax_backend"):
        load_backend("flax")


def test_what_is_installed_is_known_without_an_import(monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(sys.modules)
    assert installed() == ["flax", "torch"]
    assert not {name for name in set(sys.modules) - before if name.startswith(("jax", "torch", "flax"))}
    there = importlib.util.find_spec
    for missing, left in (("jaxlib", ["torch"]), ("torch", ["flax"]), ("deepspeed", ["flax", "torch"])):
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name, gone=missing: None if name == gone else there(name)
        )
        assert installed() == left
