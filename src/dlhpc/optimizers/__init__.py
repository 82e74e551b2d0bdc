"""Each update rule once (rules.py), and its form in each framework (flax_optimizers.py, torch_optimizers.py)."""

from __future__ import annotations

import importlib
from types import ModuleType


def __getattr__(name: str) -> ModuleType:
    match name:
        case "flax_optimizers":
            return importlib.import_module("dlhpc.optimizers.flax_optimizers")
        case "torch_optimizers":
            return importlib.import_module("dlhpc.optimizers.torch_optimizers")
    raise AttributeError(f"module 'dlhpc.optimizers' has no attribute '{name}'")
