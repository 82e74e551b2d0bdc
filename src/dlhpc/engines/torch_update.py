"""Between the gradients of a whole batch and the optimizer: NaN policy, clipping, Hessian estimates."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from dlhpc.engines.torch_engine import Engine, Piece
from dlhpc.engines.torch_gradients import any_non_finite, clear_non_finite, clipper
from dlhpc.optimizers.rules import BoundRule
from dlhpc.spec.run import RunSpec
from dlhpc.weights.table import Param

Estimate = Callable[[Piece], Tensor]
"""An estimate of the Hessian's diagonal, for any piece of a parameter."""


class Outcome(NamedTuple):
    """What became of a step."""

    applied: bool
    refused: bool
    """Whether the engine did not update although it was told to: ZeRO does so when the gradients' norm overflows."""
    non_finite: Tensor | None
    """0-d int32 tensor: 1 when gradients or the estimate were not finite, else 0; None under the policy `raise`."""


class Update:
    """Ends a step as a run wants it. It looks at gradients only where an option asks for it."""

    def __init__(self, run: RunSpec, bound: BoundRule, table: tuple[Param, ...], device: torch.device) -> None:
        self._policy, self._curvature, self._device = run.training.non_finite_gradients, bound.curvature, device
        self._clip = clipper(run.training.clipping, table, device)
        self._looks = self._clip is not None or self._policy != "raise"

    def __call__(self, engine: Engine, estimate: Estimate | None) -> Outcome:
        """Update the engine's weights from its gradients, or leave them."""
        if self._looks or estimate is not None:
            return self._treat(engine, estimate)
        return _updated(engine, None)

    @torch.no_grad()
    def _treat(self, engine: Engine, estimate: Estimate | None) -> Outcome:
        pieces = engine.pieces()
        estimates = [] if estimate is None else [estimate(piece) for piece in pieces]
        non_finite = None
        if self._policy != "raise":
            arrays = [*(piece.gradient for piece in pieces), *estimates]
            non_finite = any_non_finite(engine, arrays, self._device)
            if self._policy == "zero":
                clear_non_finite(arrays)
            elif non_finite.item():
                engine.discard()
                return Outcome(applied=False, refused=False, non_finite=non_finite)
        if self._clip is not None:
            self._clip(engine, pieces)
        if estimate is not None:
            self._fold(pieces, estimates)
        return _updated(engine, non_finite)

    def _fold(self, pieces: list[Piece], estimates: list[Tensor]) -> None:
        assert self._curvature is not None
        for piece, estimate in zip(pieces, estimates, strict=True):
            average = piece.slots[self._curvature.slot]
            average.copy_(self._curvature.fold(average, estimate))


def _updated(engine: Engine, non_finite: Tensor | None) -> Outcome:
    applied = engine.update()
    return Outcome(applied, refused=not applied, non_finite=non_finite)
