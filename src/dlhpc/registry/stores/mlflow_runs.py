"""The run that a publication is for MLflow: its pages compare the runs of a model, by their metrics and parameters."""

from __future__ import annotations

import getpass
import re
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from dlhpc.errors import UsageError
from dlhpc.registry.manifest import Manifest
from dlhpc.registry.refs import short
from dlhpc.registry.stores.mlflow_rest import MlflowServer, TakenError, tag_list

DIGEST_TAG = "dlhpc.digest"
_PARAMS_AT_ONCE = 100
_LONGEST_PARAM = 500
"""Characters of a parameter that every MLflow takes."""


def start(server: MlflowServer, name: str, digest: str, manifest: Manifest) -> dict[str, Any]:
    """Begin a run with the settings and metrics of a version; what MLflow says of it (`run_id`, `artifact_uri`)."""
    tags = {
        DIGEST_TAG: digest,
        "mlflow.user": publisher(),
        "mlflow.source.type": "LOCAL",
        "mlflow.source.name": "dlhpc",
        **({"mlflow.source.git.commit": manifest.code.commit} if manifest.code else {}),
    }
    created = server.post(
        "runs/create",
        experiment_id=_experiment(server, name),
        run_name=f"{name} {short(digest)}",
        start_time=_now_ms(),
        tags=tag_list(tags),
    )
    info: dict[str, Any] = created["run"]["info"]
    params, metrics = settings(manifest), _metrics(manifest)
    for first in range(0, len(params), _PARAMS_AT_ONCE):
        some = params[first : first + _PARAMS_AT_ONCE]
        server.post("runs/log-batch", run_id=info["run_id"], params=some, metrics=metrics)
        metrics = []
    return info


def finish(server: MlflowServer, run_id: str) -> None:
    """Say that all of it is there."""
    server.post("runs/update", run_id=run_id, status="FINISHED", end_time=_now_ms())


def remove(server: MlflowServer, run_id: str) -> None:
    """Delete a run that no version needs; `mlflow gc` then removes its files."""
    server.post("runs/delete", attempts=1, run_id=run_id)


def settings(manifest: Manifest) -> list[dict[str, str]]:
    """The resolved run, one parameter for each setting: `optimizer.name`, `training.batch_size`, ..."""
    found: dict[str, str] = {}

    def walk(value: Any, path: Sequence[str]) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                walk(inner, [*path, str(key)])
        else:
            found[_key(".".join(path))] = str(value)[:_LONGEST_PARAM]

    walk(manifest.run.canonical(), [])
    return [{"key": key, "value": value} for key, value in sorted(found.items())]


def publisher() -> str:
    """Who publishes: user@host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without an entry in /etc/passwd
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


def _experiment(server: MlflowServer, name: str) -> str:
    """The id of the experiment that has the model's name."""
    with suppress(TakenError):
        return str(server.post("experiments/create", name=name)["experiment_id"])
    experiment = server.get("experiments/get-by-name", experiment_name=name)["experiment"]
    if experiment.get("lifecycle_stage") == "deleted":
        raise UsageError(
            f"{server.url}: its experiment {name!r} was deleted; to restore it: "
            f"mlflow experiments restore --experiment-id {experiment['experiment_id']}"
        )
    return str(experiment["experiment_id"])


def _metrics(manifest: Manifest) -> list[dict[str, Any]]:
    now = _now_ms()
    return [{"key": _key(key), "value": value, "timestamp": now, "step": 0} for key, value in manifest.metrics.items()]


def _key(text: str) -> str:
    """A name that MLflow takes for a metric or a parameter."""
    return re.sub(r"[^A-Za-z0-9_./ -]", "_", text)[:250]


def _now_ms() -> int:
    return int(time.time() * 1000)
