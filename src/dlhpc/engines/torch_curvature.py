"""Sophia's estimates of the Hessian's diagonal, over the whole batch and all processes, from draws that JAX makes too.

Gauss-Newton-Bartlett is one more backward pass through the engine, whose gradients are read and thrown away, so it
works wherever training does. Hutchinson differentiates twice, which takes a module with whole weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from dlhpc import draws
from dlhpc.draws import MASK32, PROBES, SAMPLED_LABELS
from dlhpc.engines.torch_engine import Engine
from dlhpc.engines.torch_network import PADDING, Part, loss_sum
from dlhpc.engines.torch_processes import sum_over_processes
from dlhpc.engines.torch_update import Estimate
from dlhpc.models.torch_layers import WORDS
from dlhpc.optimizers.torch_estimators import hutchinson, sample_labels, squared_gradient
from dlhpc.spec.optimizer import SophiaSpec
from dlhpc.spec.run import RunSpec
from dlhpc.weights.layout import layout
from dlhpc.weights.table import Param

FUNCTIONS: Any = torch
"""sqrt, log and cos for the draws; the type checker cannot match a module's overloads with a protocol."""

Logits = Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]
"""(module or engine, inputs as placed) -> logits in the master precision."""

Estimator = Callable[[Engine, Sequence[Part], int, int], Estimate]
"""(engine, this process's parts of the batch, real rows over all processes, number of the step) -> estimate."""


def estimator(run: RunSpec, table: tuple[Param, ...], logits: Logits, world_size: int) -> Estimator | None:
    """What a run's optimizer asks for, if anything."""
    match run.optimizer:
        case SophiaSpec(estimator="gnb"):
            return GaussNewtonBartlett(run, logits)
        case SophiaSpec():
            return Hutchinson(run, table, logits, world_size)
        case _:
            return None


class GaussNewtonBartlett:
    """B g^2 for the gradient g of the mean cross entropy on labels drawn from the model, without label smoothing."""

    def __init__(self, run: RunSpec, logits: Logits) -> None:
        self._seed, self._logits = run.seed & MASK32, logits

    def __call__(self, engine: Engine, parts: Sequence[Part], count: int, step: int) -> Estimate:
        for number, part in enumerate(parts, 1):
            logits = self._logits(engine, part.inputs)
            labels = sample_labels(logits, self._noise(logits, part.first_row, step))
            labels[part.labels == PADDING] = PADDING
            engine.add_gradients(loss_sum(logits, labels, 0.0) / count, last=number == len(parts))
        squares = {piece.name: squared_gradient(piece.gradient, count) for piece in engine.pieces()}
        engine.discard()
        return lambda piece: squares[piece.name]

    def _noise(self, logits: Tensor, first_row: int, step: int) -> Tensor:
        rows = torch.arange(first_row, first_row + logits.shape[0], device=logits.device)[:, None]
        classes = torch.arange(logits.shape[1], device=logits.device)[None, :]
        counters = (self._seed, step & MASK32, SAMPLED_LABELS, rows, classes)
        noise: Tensor = draws.gumbel(WORDS, FUNCTIONS, logits.dtype, *counters)
        return noise


class Hutchinson:
    """u * (Hessian u) of the training objective without dropout, for normal vectors u."""

    def __init__(self, run: RunSpec, table: tuple[Param, ...], logits: Logits, world_size: int) -> None:
        self._seed, self._logits, self._world_size = run.seed & MASK32, logits, world_size
        self._smoothing = run.training.label_smoothing
        self._rows = list(zip(table, layout("torch", table).places, strict=True))

    def __call__(self, engine: Engine, parts: Sequence[Part], count: int, step: int) -> Estimate:
        module = engine.module
        named = dict(module.named_parameters())
        parameters = [named[place.name] for _, place in self._rows]
        probes = [self._probe(index, step, parameters[index]) for index in range(len(self._rows))]
        sums = [torch.zeros_like(parameter) for parameter in parameters]
        for part in parts:
            loss = loss_sum(self._logits(module, part.inputs), part.labels, self._smoothing) / count
            torch._foreach_add_(sums, hutchinson(loss, parameters, probes))
        whole = {place.name: total.view(-1) for (_, place), total in zip(self._rows, sums, strict=True)}
        if self._world_size > 1:
            for total in whole.values():
                sum_over_processes(total)
        return lambda piece: whole[piece.name][piece.start : piece.start + len(piece.gradient)]

    def _probe(self, index: int, step: int, parameter: Tensor) -> Tensor:
        """Numbered in canonical order, so that they are the same in every layout."""
        row, place = self._rows[index]
        elements = torch.arange(prod(row.shape), device=parameter.device)
        u = draws.normal(WORDS, FUNCTIONS, parameter.dtype, self._seed, step & MASK32, PROBES + index, elements)
        probe: Tensor = u.view(row.shape).permute(place.axes).contiguous()
        return probe
