"""Whether a checkpoint belongs to the run that wants to go on from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dlhpc.errors import ConfigError, DataError
from dlhpc.spec.run import RunSpec
from dlhpc.spec.schedule import ReduceOnPlateauSchedule
from dlhpc.training.checkpoint import Checkpoint

FREE = (
    "backend",
    "name",
    "runs_dir",
    "registry",
    "distributed",
    "data.path",
    "training.log_every",
    "training.evaluate_every",
    "training.checkpoint_every",
    "training.keep_checkpoints",
)
"""What may change when a run goes on: the other framework, other processes, other places, other pauses. The data's path
may, since its fingerprint is compared. Where evaluations steer the learning rate, their number is no pause."""


def refuse_another_run(checkpoint: Checkpoint, run: RunSpec, data_fingerprint: str) -> None:
    """Raise ConfigError naming every setting that differs, or DataError when the data is not the same."""
    free = set(FREE)
    if isinstance(run.training.schedule, ReduceOnPlateauSchedule):
        free.remove("training.evaluate_every")
    then = dict(_flat(checkpoint.manifest.run.canonical()))
    now = dict(_flat(run.canonical()))
    problems = [
        f"{key}: {now.get(key)!r} came, but the run in {checkpoint.path} was begun with {then.get(key)!r}: "
        "resume it as it was, or start a new run"
        for key in dict.fromkeys((*then, *now))
        if then.get(key) != now.get(key) and not _is_free(key, free)
    ]
    if problems:
        raise ConfigError(problems)
    if data_fingerprint != checkpoint.manifest.data_fingerprint:
        raise DataError(
            f"the data is not what the run in {checkpoint.path} was begun with: its fingerprint is {data_fingerprint}, "
            f"then it was {checkpoint.manifest.data_fingerprint}; bring the data back, or start a new run"
        )


def _is_free(key: str, free: set[str]) -> bool:
    return any(key == one or key.startswith(f"{one}.") for one in free)


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, dict):
            yield from _flat(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", inner
