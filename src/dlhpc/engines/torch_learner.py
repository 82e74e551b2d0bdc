"""The PyTorch learner: a DeepSpeed engine, alone or in the launcher's processes."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal
from weakref import WeakSet

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dlhpc.data.batch import HostBatch
from dlhpc.draws import MASK32
from dlhpc.engines import torch_deepspeed, torch_processes
from dlhpc.engines.torch_curvature import estimator
from dlhpc.engines.torch_engine import Engine, PlainEngine, Resume
from dlhpc.engines.torch_memory import keep_freed_memory
from dlhpc.engines.torch_network import (
    Normalize,
    Part,
    build_model,
    correct_count,
    load_weights,
    local_device,
    loss_sum,
    numbers,
)
from dlhpc.engines.torch_update import Estimate, Update
from dlhpc.errors import ConfigError, MissingExtraError
from dlhpc.models.torch_layers import Dropping
from dlhpc.optimizers.groups import decays, learning_rate_scales
from dlhpc.optimizers.rules import EMA, bind_run
from dlhpc.optimizers.torch_optimizers import RuleOptimizer
from dlhpc.ports import Controls, Metrics, NamedArrays, Preprocessing
from dlhpc.spec.optimizer import SophiaSpec
from dlhpc.spec.run import RunSpec
from dlhpc.weights.init import initial_weights
from dlhpc.weights.layout import layout
from dlhpc.weights.state_table import APPLIED, CONSUMED, param_key, slot_key
from dlhpc.weights.table import param_table
from dlhpc.weights.verify import verify_state

log = logging.getLogger(__name__)


@dataclass
class State:
    """Everything that learning changes."""

    engine: Engine
    consumed: int
    """Batches taken from the plan."""
    applied: int
    """Updates made."""
    averages: dict[str, Tensor] | None = None
    """The averaged weights, whole, by the framework's names: gathered for an evaluation, dropped by the next step."""


@dataclass(frozen=True)
class Placed:
    """A batch on the device: inputs [K, b, H, W, C], labels [K, b] int64; counts [K] stay on the host."""

    inputs: Tensor
    labels: Tensor
    counts: npt.NDArray[np.int32]
    first_row: int


class TorchLearner:
    """A model in PyTorch that learns in one or several processes."""

    def __init__(self, run: RunSpec) -> None:
        self._launch = torch_processes.read_launch(os.environ)
        _refuse_what_torch_cannot_do(run, self._launch.world_size)
        self._run = run
        self._table = param_table(run.model)
        self._layout = layout("torch", self._table)
        self._bound = bind_run(run)
        self._averages = EMA in self._bound.slots
        self._formats = numbers(run.training.precision)
        self._device = local_device()
        keep_freed_memory(os.environ)
        self._normalize = Normalize(Preprocessing(run.data.mean, run.data.std), self._formats, self._device)
        self._update = Update(run, self._bound, self._table, self._device)
        self._estimator = estimator(run, self._table, self._logits, self._launch.world_size)
        self._engines: WeakSet[Engine] = WeakSet()
        self._joined = torch_deepspeed.available()
        if self._joined:
            torch_processes.join(self._launch, self._device)
        else:
            log.warning("DeepSpeed is not installed: training on a plain PyTorch engine, in one process, without ZeRO")

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""
        return self._launch.rank

    @property
    def world_size(self) -> int:
        """Number of processes that train together."""
        return self._launch.world_size

    # -- state ---------------------------------------------------------------------------------------------------

    def init(self, seed: int) -> State:
        """Weights from the seed, zero slots."""
        return State(self._make_engine(initial_weights(self._table, seed, np.float64), None), 0, 0)

    def restore(self, source: NamedArrays) -> State:
        """A state from a training snapshot of either framework; IntegrityError when it is not exactly one."""
        slots = self._bound.slots
        verify_state(self._table, slots, source, "the training state")
        weights = {row.name: source[param_key(row.name)] for row in self._table}
        arrays = {slot: {row.name: source[slot_key(slot, row.name)] for row in self._table} for slot in slots}
        applied = int(source[APPLIED])
        tensors = {slot: self._to_tensors(named) for slot, named in arrays.items()}
        return State(self._make_engine(weights, Resume(tensors, applied)), int(source[CONSUMED]), applied)

    def snapshot(self, state: State, what: Literal["model", "training"]) -> NamedArrays:
        """Owned host copies, the same on every process."""
        names = [place.name for place in self._layout.places]
        if what == "model" and self._averages and state.applied:
            return self._to_arrays({name: state.engine.slot(EMA, name) for name in names})
        weights = self._to_arrays({name: state.engine.parameter(name) for name in names})
        if what == "model":
            return weights
        arrays = {param_key(name): array for name, array in weights.items()}
        for slot in self._bound.slots:
            tensors = {name: state.engine.slot(slot, name) for name in names}
            arrays |= {slot_key(slot, name): array for name, array in self._to_arrays(tensors).items()}
        return arrays | {CONSUMED: np.array(state.consumed, np.int64), APPLIED: np.array(state.applied, np.int64)}

    def _make_engine(self, weights: NamedArrays, resume: Resume | None) -> Engine:
        module = build_model(self._run.model, self._formats.master)
        load_weights(module, self._run.model, weights)
        module.to(self._device)
        groups = self._groups(dict(module.named_parameters()))
        optimizer = RuleOptimizer(groups, self._bound, lr=0.0, weight_decay=0.0)  # every step and group bring theirs
        engine: Engine
        if self._joined:
            engine = torch_deepspeed.DeepSpeedEngine(module, optimizer, resume, run=self._run, launch=self._launch)
        else:
            engine = PlainEngine(module, optimizer, resume)
        self._engines.add(engine)
        return engine

    def _groups(self, parameters: dict[str, torch.nn.Parameter]) -> list[dict[str, Any]]:
        """One group per pair of learning-rate scale and weight decay, in the table's order."""
        scales = learning_rate_scales(self._run.optimizer, self._table)
        decay = decays(self._run.optimizer, self._table)
        groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
        for place in self._layout.places:
            key = (scales[place.canonical], decay[place.canonical])
            groups.setdefault(key, []).append(parameters[place.name])
        return [
            {"params": params, "lr_scale": scale, "weight_decay": weight_decay}
            for (scale, weight_decay), params in groups.items()
        ]

    def _to_tensors(self, arrays: NamedArrays) -> dict[str, Tensor]:
        leaves = self._layout.to_framework(arrays)
        return {name: torch.tensor(leaf, dtype=self._formats.master) for name, leaf in leaves.items()}

    def _to_arrays(self, tensors: dict[str, Tensor]) -> dict[str, npt.NDArray[Any]]:
        return self._layout.to_canonical({name: tensor.cpu().numpy() for name, tensor in tensors.items()})

    # -- work ----------------------------------------------------------------------------------------------------

    def place(self, batch: HostBatch) -> Placed:
        """Copies: the host's arrays may be overwritten afterwards."""
        inputs = torch.tensor(batch.inputs, device=self._device)
        labels = torch.tensor(batch.labels, dtype=torch.int64, device=self._device)
        return Placed(inputs, labels, batch.counts.copy(), batch.first_row)

    def steps(self, state: State, batch: Placed, controls: Controls) -> tuple[State, Metrics]:
        """K updates, one after another. Spends `state`."""
        if not self._run.model.dropout_rate and controls.dropout_rate.any():
            raise ValueError("a dropout rate was passed to a model whose spec has none (model.dropout_rate is 0)")
        rates, steps, learning_rates, counts = (
            array.tolist() for array in (controls.dropout_rate, controls.step, controls.learning_rate, batch.counts)
        )
        losses, corrects, flags = [], [], []
        for index, count in enumerate(counts):
            dropping = Dropping(rates[index], self._run.seed & MASK32, steps[index] & MASK32, batch.first_row)
            state.engine.set_learning_rate(learning_rates[index])
            parts = self._parts(batch.inputs[index], batch.labels[index], batch.first_row)
            loss, correct, non_finite = self._one_step(state, parts, count, dropping)
            losses.append(loss)
            corrects.append(correct)
            flags.append(non_finite)
        state.consumed += len(counts)
        state.averages = None
        loss_K, correct_K = torch.stack(losses), torch.stack(corrects)
        if self.world_size > 1:
            torch_processes.sum_over_processes(loss_K)
            torch_processes.sum_over_processes(correct_K)
        metrics = {"loss": loss_K, "correct": correct_K, "count": batch.counts}
        if self._run.training.non_finite_gradients != "raise":
            metrics["non_finite"] = torch.stack([flag for flag in flags if flag is not None])
        return state, metrics

    def _parts(self, inputs: Tensor, labels: Tensor, first_row: int) -> list[Part]:
        """This process's rows of a step, in `gradient_accumulation` parts of equal size."""
        number = self._run.training.gradient_accumulation
        if number == 1:
            return [Part(inputs, labels, first_row)]
        chunks = zip(inputs.chunk(number), labels.chunk(number), strict=True)
        return [Part(rows, truth, first_row + index * len(truth)) for index, (rows, truth) in enumerate(chunks)]

    def _one_step(
        self, state: State, parts: list[Part], count: int, dropping: Dropping
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """One update; this process's share of the loss and its correct rows; whether gradients were not finite."""
        engine, curvature = state.engine, self._bound.curvature
        estimate: Estimate | None = None
        if self._estimator is not None and curvature is not None and curvature.due(state.applied):
            estimate = self._estimator(engine, parts, count, dropping.step)
        *others, last = parts
        sums = [self._one_part(engine, part, count, dropping, last=False) for part in others]
        sums.append(self._one_part(engine, last, count, dropping, last=True))
        loss, correct = sums[0] if len(sums) == 1 else (torch.stack(each).sum() for each in zip(*sums, strict=True))
        outcome = self._update(engine, estimate)
        state.applied += outcome.applied
        if outcome.refused:
            loss = torch.full_like(loss, torch.nan)  # the loop ends the run at a loss that is not finite
        return loss, correct, outcome.non_finite

    def _one_part(
        self, engine: Engine, part: Part, count: int, dropping: Dropping, *, last: bool
    ) -> tuple[Tensor, Tensor]:
        if part.first_row != dropping.first_row:
            dropping = replace(dropping, first_row=part.first_row)
        logits = self._logits(engine, part.inputs, dropping)
        loss = loss_sum(logits, part.labels, self._run.training.label_smoothing) / count
        engine.add_gradients(loss, last=last)
        return loss.detach(), correct_count(logits.detach(), part.labels)

    def _logits(self, forward: Callable[..., Tensor], inputs: Tensor, *args: Any) -> Tensor:
        return forward(self._normalize(inputs), *args).to(self._formats.master)

    @torch.no_grad()
    def evaluate(self, state: State, batch: Placed) -> Metrics:
        """loss_sum (without label smoothing), correct, count over the real rows of all processes; no dropout."""
        inputs, labels = batch.inputs.flatten(0, 1), batch.labels.flatten()
        averaged = self._averages and state.applied
        logits = self._logits(self._averaged_model(state) if averaged else state.engine, inputs)
        sums = torch.stack((loss_sum(logits, labels, 0.0), correct_count(logits, labels), (labels >= 0).sum()))
        if self.world_size > 1:
            torch_processes.sum_over_processes(sums)
        return {"loss_sum": sums[0], "correct": sums[1].to(torch.int64), "count": sums[2].to(torch.int64)}

    def _averaged_model(self, state: State) -> Callable[..., Tensor]:
        """The model on averaged weights, which stay gathered until the next step."""
        if state.averages is None:
            state.averages = {place.name: state.engine.slot(EMA, place.name) for place in self._layout.places}
        with torch.device("meta"):
            shell = build_model(self._run.model, self._formats.master)
        return partial(torch.func.functional_call, shell, state.averages)

    def agree(self, value: int) -> int:
        """The greatest value that any process passed."""
        return torch_processes.greatest(value, self._device) if self.world_size > 1 else value

    def close(self) -> None:
        """Give back engines and, when this was its last user, the process group."""
        for engine in tuple(self._engines):
            engine.close()
        self._engines.clear()
        if self._joined:
            self._joined = False
            torch_processes.leave()


def _refuse_what_torch_cannot_do(run: RunSpec, world_size: int) -> None:
    training, stage = run.training, run.distributed.zero_stage
    if not torch_deepspeed.available() and (world_size > 1 or stage > 0):
        raise MissingExtraError(f"training in {world_size} process(es) with ZeRO stage {stage}", "deepspeed", "torch")
    if stage == 3 and isinstance(run.optimizer, SophiaSpec) and run.optimizer.estimator == "hutchinson":
        raise ConfigError(
            "optimizer.estimator: hutchinson with distributed.zero_stage 3: it differentiates twice, which cut weights "
            "cannot do; use gnb, or a stage up to 2"
        )
    if training.precision == "float64" and stage > 0:
        raise ConfigError(
            f"training.precision: float64 with distributed.zero_stage {stage}: ZeRO 1 to 3 keep float32; use stage 0"
        )
    if training.batch_size % (training.gradient_accumulation * world_size):
        raise ConfigError(
            f"training.batch_size: {training.batch_size} is not a multiple of training.gradient_accumulation "
            f"{training.gradient_accumulation} x {world_size} process(es)"
        )
