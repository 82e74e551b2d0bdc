"""How far a loaded version's answers are from those that were stored with it."""

from __future__ import annotations

import numpy as np

from dlhpc.errors import ServingError
from dlhpc.ports import Predictor
from dlhpc.registry.artifact import Artifact
from dlhpc.spec.wire import ModelInfo


def deviation(artifact: Artifact, predictor: Predictor, max_batch_size: int) -> float | None:
    """The largest difference of two probabilities over the golden examples, over the largest probability.

    infinite where an answer is no number; None for a version that has no golden examples.
    """
    if not artifact.has_golden:
        return None
    golden = artifact.golden()
    parts = [
        predictor(golden.inputs[start : start + max_batch_size])
        for start in range(0, len(golden.inputs), max_batch_size)
    ]
    worst = float(np.abs(np.concatenate(parts).astype(np.float64) - golden.outputs).max() / golden.outputs.max())
    return worst if np.isfinite(worst) else float("inf")


def too_far(info: ModelInfo, found: float, bound: float) -> ServingError:
    """The error of a version that must not answer."""
    what = f"{info.name} in {info.precision} on {info.backend}"
    hint = "serve it in float32: --set precision=float32" if info.precision != "float32" else "try the other framework"
    return ServingError(
        f"{what}: answers differ by {found:.3g} of the largest one from those that were stored with it, more than "
        f"max_deviation ({bound:g}): {hint}, or allow more with --set max_deviation=<share>"
    )


def told(info: ModelInfo) -> str:
    """A line about a version that was loaded."""
    how = f"{info.name} answers in {info.precision} on {info.backend}"
    if info.deviation is None:
        return f"{how}: it has no stored answers to compare with"
    return f"{how}: at most {info.deviation:.2g} of the largest one off the answers that were stored with it"
