"""How gradients are clipped: formulas on a tiny namespace, shared by both frameworks.

The order in a step: gradients of the whole batch, over all parts and processes (and, where it is due, the estimate of
the Hessian); the policy for numbers that are not finite, in either; clipping; the rule, which first takes up the
estimate.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

from dlhpc.errors import ConfigError
from dlhpc.spec.gradients import AdaptiveClipping
from dlhpc.weights.table import Param

LEAST_NORM = 1e-6


def global_norm_scale(ns: Any, norm: Any, max_norm: float) -> Any:
    """Factor on every gradient when all together have this norm (0-d array): torch's and DeepSpeed's formula."""
    return ns.clip(max_norm / (norm + LEAST_NORM), None, 1.0)


def adaptive_scale(ns: Any, gradient_norm: Any, weight_norm: Any, clipping: AdaptiveClipping) -> Any:
    """Factor on each unit's gradient, from the units' norms (arrays of one shape)."""
    limit = clipping.factor * ns.clip(weight_norm, clipping.eps, None)
    return ns.where(gradient_norm > limit, limit / ns.clip(gradient_norm, LEAST_NORM, None), 1.0)


def unit_axes(param: Param) -> tuple[int, ...]:
    """Canonical axes that a unit's norm runs over: all but `out`; of biases and gains, the whole vector."""
    if len(param.shape) == 1:
        return (0,)
    return tuple(axis for axis, meaning in enumerate(param.axes) if meaning != "out")


def adaptively_clipped(clipping: AdaptiveClipping, table: tuple[Param, ...]) -> frozenset[str]:
    """Names of the parameters that are clipped. Raises ConfigError for a pattern that matches none."""
    names = [row.name for row in table]
    problems = [
        f"training.clipping.exempt: {pattern!r} matches no parameter: {', '.join(names)}"
        for pattern in clipping.exempt
        if not any(fnmatchcase(name, pattern) for name in names)
    ]
    if problems:
        raise ConfigError(problems)
    return frozenset(n for n in names if not any(fnmatchcase(n, pattern) for pattern in clipping.exempt))
