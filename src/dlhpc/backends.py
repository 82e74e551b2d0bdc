"""The only importer of engines: a framework is loaded when it is asked for, and named when it is missing."""

from __future__ import annotations

import importlib

from dlhpc.errors import MissingExtraError, UsageError
from dlhpc.ports import Backend

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
