"""A rule over lists of tensors, compiled by torch: for accelerators, where one kernel should do what many would."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from dlhpc.optimizers.rules import BoundRule, Coefficients

Update = tuple[Tensor, Tensor, list[Tensor], Coefficients]
"""Parameter, gradient, slots and the rule's numbers."""

SHAPES_AT_MOST = 256
"""Lists of different shapes that may be compiled: ZeRO hands over one per group."""


class CompiledLists:
    """One bound rule. It compiles at the first call, and again only for other shapes: rates are tensors."""

    def __init__(self, bound: BoundRule) -> None:
        self._bound = bound

    @cached_property
    def _step(self) -> Callable[..., None]:
        bound = self._bound

        def step(arrays: Sequence[Any], numbers: Tensor) -> None:
            for (x, g, slots), row in zip(arrays, numbers.unbind(), strict=True):
                new_slots, new_x = bound.move(torch, g, tuple(slots), x, row.unbind())
                for old, new in zip((x, *slots), (new_x, *new_slots), strict=True):
                    old.copy_(new)

        compiled: Callable[..., None] = torch.compile(step, fullgraph=True, dynamic=False)
        return compiled

    def __call__(self, updates: Sequence[Update]) -> None:
        """Update the parameters and slots in place; all of them are on one device."""
        x = updates[0][0]
        rows = torch.tensor([numbers for *_, numbers in updates], dtype=torch.float64, device=x.device)
        with torch._dynamo.config.patch(recompile_limit=SHAPES_AT_MOST):
            self._step([arrays for *arrays, _ in updates], rows)
