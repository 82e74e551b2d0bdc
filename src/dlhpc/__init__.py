"""dlhpc: one system that takes a deep-learning model from data to production.

    run      = dlhpc.load_run("config/flax_config.yaml", overrides=["training.num_epochs=1"])
    artifact = dlhpc.train(run)
    registry = dlhpc.Registry("registry")
    digest   = registry.publish(artifact, name="digits-mlp")
    predict  = registry.get("digits-mlp").predictor(backend="torch")
    client   = dlhpc.Client("http://127.0.0.1:8000"); client.predict(image)
    replies  = dlhpc.AsyncClient("http://127.0.0.1:8000").predict_many(images)  # async for
    report   = dlhpc.evaluate("digits-mlp", registry=registry)
    learner  = dlhpc.load_backend("flax").learner(run)
    update   = dlhpc.optimizers.flax_optimizers.build(run.optimizer)

Every name is imported when it is first used: `import dlhpc` itself costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlhpc import optimizers as optimizers
    from dlhpc.api import Registry as Registry
    from dlhpc.api import evaluate as evaluate
    from dlhpc.api import load_run as load_run
    from dlhpc.api import train as train
    from dlhpc.backends import load_backend as load_backend
    from dlhpc.client import AsyncClient as AsyncClient
    from dlhpc.client import Client as Client

__version__ = "0.1.0"

_HOMES = {
    "AsyncClient": "dlhpc.client",
    "Client": "dlhpc.client",
    "Registry": "dlhpc.api",
    "evaluate": "dlhpc.api",
    "load_backend": "dlhpc.backends",
    "load_run": "dlhpc.api",
    "train": "dlhpc.api",
}

__all__ = ["AsyncClient", "Client", "Registry", "evaluate", "load_backend", "load_run", "optimizers", "train"]


def __getattr__(name: str) -> Any:
    if name == "optimizers":
        return importlib.import_module("dlhpc.optimizers")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'dlhpc' has no attribute '{name}'; it offers {', '.join(__all__)}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
