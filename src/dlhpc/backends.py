"""The only importer of engines: a framework is loaded when it is asked for, and named when it is missing."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from typing import get_args

from dlhpc.errors import MissingExtraError, UsageError
from dlhpc.ports import Backend
from dlhpc.spec.run import Backend as BackendName

_PACKAGES = {"flax": ("flax", "jax", "jaxlib", "optax"), "torch": ("torch", "deepspeed")}


def load_backend(name: str) -> Backend:
    """The engines of `flax` or `torch`.

    Raises UsageError for another name, and MissingExtraError, which says what to install, when the framework is absent.
    """
    if name not in _PACKAGES:
        raise UsageError(f"backend '{name}' is unknown: it is one of {', '.join(map(repr, _PACKAGES))}")
    try:
        module = importlib.import_module(f"dlhpc.engines.{name}_backend")
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _PACKAGES[name]:
            raise
        raise MissingExtraError(f"backend '{name}'", package, name) from error
    backend: Backend = module.BACKEND
    return backend


def installed() -> Sequence[BackendName]:
    """The frameworks that are installed. Nothing is imported: a process that asks stays free of them."""
    missing = {package for packages in _PACKAGES.values() for package in packages if not _is_there(package)}
    # DeepSpeed trains, and is not to be had everywhere; a predictor needs it not.
    return [name for name in get_args(BackendName) if not missing.intersection(_PACKAGES[name]) - {"deepspeed"}]


def _is_there(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
