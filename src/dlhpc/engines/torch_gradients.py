"""What is done to the gradients of a whole batch before the optimizer sees them: NaN policy, then clipping.

Both work in place on the pieces that this process has. Where these differ between processes only sums travel: one
number for the joint norm, two per unit for adaptive clipping.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple, assert_never

import torch
from torch import Tensor
from torch.nn import functional

from dlhpc.engines.torch_engine import Engine, Piece
from dlhpc.optimizers.gradients import adaptive_scale, adaptively_clipped, global_norm_scale, unit_axes
from dlhpc.spec.gradients import AdaptiveClipping, Clipping, GlobalNormClipping, NoClipping
from dlhpc.weights.layout import layout
from dlhpc.weights.table import Param

Clip = Callable[[Engine, list[Piece]], None]


def any_non_finite(engine: Engine, arrays: Iterable[Tensor], device: torch.device) -> Tensor:
    """1 when an element on any process is NaN or infinite, else 0: a 0-d int32 tensor, the same everywhere."""
    greatest = torch.nn.utils.get_total_norm(list(arrays), math.inf).to(device)  # NaN comes through
    return engine.add_up((~greatest.isfinite()).to(torch.int32)).clamp(max=1)


def clear_non_finite(arrays: Iterable[Tensor]) -> None:
    """Make zeros of the elements that are NaN or infinite."""
    for array in arrays:
        array.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)


def clipper(clipping: Clipping, table: tuple[Param, ...], device: torch.device) -> Clip | None:
    """What clips an engine's gradients, if anything. Raises ConfigError for a pattern that matches no parameter."""
    match clipping:
        case NoClipping():
            return None
        case GlobalNormClipping(max_norm=bound):
            return lambda engine, pieces: clip_global_norm(engine, pieces, bound, device)
        case AdaptiveClipping():
            return AdaptiveClipper(clipping, table, device)
        case _:
            assert_never(clipping)


def clip_global_norm(engine: Engine, pieces: list[Piece], max_norm: float, device: torch.device) -> None:
    """Scale all gradients so that their joint norm is at most `max_norm`."""
    gradients = [piece.gradient for piece in pieces]
    norm = torch.nn.utils.get_total_norm(gradients).to(device)
    scale = global_norm_scale(torch, engine.add_up(norm.square()).sqrt(), max_norm)
    for gradient in gradients:
        gradient.mul_(scale)


class _Rows(NamedTuple):
    """A parameter's units: rows of its flattened array, numbered through all parameters."""

    first: int
    length: int

    def span(self, piece: Piece) -> tuple[slice, int, int]:
        """The rows that a piece meets, and how many elements of the first and the last one it lacks."""
        start, stop = piece.start, piece.start + len(piece.gradient)
        first, last = start // self.length, -(-stop // self.length)
        rows = slice(self.first + first, self.first + last)
        return rows, start - first * self.length, last * self.length - stop


class AdaptiveClipper:
    """Bounds every unit's gradient norm by its weights' norm, however the units are cut (AGC)."""

    def __init__(self, clipping: AdaptiveClipping, table: tuple[Param, ...], device: torch.device) -> None:
        self._clipping, self._device = clipping, device
        clipped = adaptively_clipped(clipping, table)
        self._rows: dict[str, _Rows] = {}
        self._count = 0
        for row, place in zip(table, layout("torch", table).places, strict=True):
            if row.name in clipped:
                # In PyTorch's layout a unit's axes come last, so that it is a row.
                length = math.prod(row.shape[axis] for axis in unit_axes(row))
                self._rows[place.name] = _Rows(self._count, length)
                self._count += math.prod(row.shape) // length

    def __call__(self, engine: Engine, pieces: list[Piece]) -> None:
        clipped = [(piece, self._rows[piece.name]) for piece in pieces if piece.name in self._rows]
        squares = torch.zeros(2, self._count, dtype=torch.float64, device=self._device)
        for piece, rows in clipped:
            where, before, after = rows.span(piece)
            for sums, array in zip(squares, (piece.gradient, piece.weights), strict=True):
                sums[where] += functional.pad(array, (before, after)).view(-1, rows.length).square().sum(dim=1)
        gradient_norms, weight_norms = engine.add_up(squares).sqrt()
        scales = adaptive_scale(torch, gradient_norms, weight_norms, self._clipping)
        for piece, rows in clipped:
            where, before, _ = rows.span(piece)
            factors = scales[where].to(piece.gradient.dtype).repeat_interleave(rows.length)
            piece.gradient.mul_(factors[before : before + len(piece.gradient)])
