"""Which parameters decay and how their learning rates scale: names against the table, the same for both frameworks."""

from __future__ import annotations

from fnmatch import fnmatchcase

from dlhpc.errors import ConfigError
from dlhpc.spec.optimizer import OptimizerSpec
from dlhpc.weights.table import Param


def learning_rate_scales(spec: OptimizerSpec, table: tuple[Param, ...]) -> dict[str, float]:
    """Factor on every parameter's learning rate: of the first group whose pattern matches its name, else 1.

    Raises ConfigError for a pattern that matches no parameter.
    """
    names = [row.name for row in table]
    problems = [
        f"optimizer.groups.{index}.match: {group.match!r} came, expected a pattern that matches a parameter: "
        + ", ".join(names)
        for index, group in enumerate(spec.groups)
        if not any(fnmatchcase(name, group.match) for name in names)
    ]
    if problems:
        raise ConfigError(problems)

    def scale(name: str) -> float:
        return next((group.learning_rate_scale for group in spec.groups if fnmatchcase(name, group.match)), 1.0)

    return {name: scale(name) for name in names}


def decays(spec: OptimizerSpec, table: tuple[Param, ...]) -> dict[str, float]:
    """Weight decay of every parameter: the spec's, or 0 where the table exempts it (biases and norms)."""
    return {row.name: spec.weight_decay if row.decay else 0.0 for row in table}
