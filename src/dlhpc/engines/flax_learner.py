"""The Flax learner: plain leaves carried through one compiled, donated function."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from dlhpc.data.batch import HostBatch
from dlhpc.draws import MASK32
from dlhpc.engines.flax_curvature import estimator
from dlhpc.engines.flax_network import Params, correct_count, forward_function, loss_sum, numbers
from dlhpc.engines.flax_parts import Part, sum_over_parts
from dlhpc.engines.flax_update import Update
from dlhpc.errors import ConfigError, UsageError
from dlhpc.models.flax_layers import Dropping
from dlhpc.optimizers.flax_optimizers import OptimizerState
from dlhpc.optimizers.rules import EMA
from dlhpc.ports import Controls, Metrics, NamedArrays, Preprocessing
from dlhpc.spec.run import RunSpec
from dlhpc.weights.init import initial_weights
from dlhpc.weights.layout import layout
from dlhpc.weights.state_table import APPLIED, CONSUMED, param_key, slot_key
from dlhpc.weights.table import param_table
from dlhpc.weights.verify import verify_state


class State(NamedTuple):
    """Everything that learning changes."""

    params: Params
    optimizer: OptimizerState
    consumed: jax.Array
    """Batches taken from the plan, int32."""


class Placed(NamedTuple):
    """A batch: inputs [K, b, H, W, C], labels [K, b], counts [K], first_row (); numpy arrays, tracers when traced."""

    inputs: Any
    labels: Any
    counts: Any
    first_row: Any


class StepControls(NamedTuple):
    """Controls in the types of the device, [K] each."""

    learning_rate: Any
    step: Any
    dropout_rate: Any


class FlaxLearner:
    """A model in Flax NNX that learns on one device."""

    rank = 0
    world_size = 1

    def __init__(self, run: RunSpec) -> None:
        _refuse_what_flax_cannot_do(run)
        self._run = run
        self._table = param_table(run.model)
        self._layout = layout("flax", self._table)
        self._update = Update(run, self._table)
        self._slots = self._update.optimizer.bound.slots
        self._formats = numbers(run.training.precision)
        with self._number_formats():
            self._forward = forward_function(run.model, Preprocessing(run.data.mean, run.data.std), self._formats)
        self._estimator = estimator(run, self._table, self._forward)
        self._steps: Any = jax.jit(self._trace_steps, donate_argnums=0)
        self._evaluate: Any = jax.jit(self._trace_evaluate)

    def _number_formats(self) -> AbstractContextManager[Any]:
        """float64 exists in JAX only where it is switched on: here, so that nothing else in the process changes."""
        return jax.enable_x64(True) if self._formats.master == jnp.float64 else nullcontext()

    # -- state ---------------------------------------------------------------------------------------------------

    def init(self, seed: int) -> State:
        """Weights from the seed, zero slots."""
        with self._number_formats():
            params = self._to_device(initial_weights(self._table, seed, self._formats.master))
            return State(params, self._update.optimizer.init(params), jnp.zeros((), jnp.int32))

    def restore(self, source: NamedArrays) -> State:
        """A state from a training snapshot of either framework; IntegrityError when it is not exactly one."""
        verify_state(self._table, self._slots, source, "the training state")
        with self._number_formats():
            params = self._to_device({row.name: source[param_key(row.name)] for row in self._table})
            slots = tuple(
                self._to_device({row.name: source[slot_key(slot, row.name)] for row in self._table})
                for slot in self._slots
            )
            applied, consumed = (jnp.array(source[key], jnp.int32) for key in (APPLIED, CONSUMED))
            return State(params, (applied, slots), consumed)

    def snapshot(self, state: State, what: Literal["model", "training"]) -> NamedArrays:
        """Owned host copies: `state` may be spent afterwards."""
        with self._number_formats():
            if what == "model":
                return self._to_host(self._published(state))
            arrays = {param_key(name): array for name, array in self._to_host(state.params).items()}
            for slot, tree in zip(self._slots, state.optimizer[1], strict=True):
                arrays |= {slot_key(slot, name): array for name, array in self._to_host(tree).items()}
            return arrays | {
                CONSUMED: np.array(state.consumed, np.int64),
                APPLIED: np.array(state.optimizer[0], np.int64),
            }

    def _published(self, state: State) -> Params:
        """The weights that are evaluated and published: their average, where the run keeps one, once it has begun."""
        applied, slots = state.optimizer
        averaged: Params = slots[self._slots.index(EMA)] if EMA in self._slots and int(applied) else state.params
        return averaged

    def _to_device(self, arrays: Mapping[str, npt.NDArray[Any]]) -> Params:
        leaves = self._layout.to_framework(arrays)
        return {name: jnp.array(leaf, self._formats.master, copy=True) for name, leaf in leaves.items()}

    def _to_host(self, leaves: Params) -> dict[str, npt.NDArray[Any]]:
        return self._layout.to_canonical({name: np.asarray(leaf) for name, leaf in leaves.items()})

    # -- work ----------------------------------------------------------------------------------------------------

    def place(self, batch: HostBatch) -> Placed:
        """Copies: the host's arrays may be overwritten afterwards, also while a step still reads them.

        They reach the device as arguments of the compiled function, ten times quicker than by jax.device_put.
        """
        return Placed(batch.inputs.copy(), batch.labels.copy(), batch.counts.copy(), np.uint32(batch.first_row))

    def steps(self, state: State, batch: Placed, controls: Controls) -> tuple[State, Metrics]:
        """K updates in one dispatch. Spends `state`."""
        if not self._run.model.dropout_rate and controls.dropout_rate.any():
            raise ValueError("a dropout rate was passed to a model whose spec has none (model.dropout_rate is 0)")
        device_controls = StepControls(
            controls.learning_rate.astype(self._formats.master),
            (controls.step & MASK32).astype(np.uint32),
            controls.dropout_rate.astype(self._formats.master),
        )
        with self._number_formats():
            return self._steps(state, batch, device_controls)

    def evaluate(self, state: State, batch: Placed) -> Metrics:
        """loss_sum (without label smoothing), correct and count over the batch's real rows, without dropout."""
        with self._number_formats():
            return self._evaluate(self._published(state), batch)

    def agree(self, value: int) -> int:
        """The value itself: there is one process."""
        return value

    def close(self) -> None:
        """Drop the compiled programs."""
        self._steps.clear_cache()
        self._evaluate.clear_cache()

    # -- traced --------------------------------------------------------------------------------------------------

    def _trace_steps(self, state: State, batch: Placed, controls: StepControls) -> tuple[State, Metrics]:
        per_step = (batch.inputs, batch.labels, batch.counts, controls)

        def body(state: State, one: tuple[Any, ...]) -> tuple[State, Metrics]:
            return self._one_step(state, *one, first_row=batch.first_row)

        if len(batch.counts) > 1:
            return jax.lax.scan(body, state, per_step)
        state, metrics = body(state, jax.tree.map(lambda array: array[0], per_step))
        return state, jax.tree.map(lambda array: array[None], metrics)

    def _one_step(
        self,
        state: State,
        inputs: jax.Array,
        labels: jax.Array,
        count: jax.Array,
        controls: StepControls,
        *,
        first_row: jax.Array,
    ) -> tuple[State, Metrics]:
        seed = jnp.uint32(self._run.seed & MASK32)

        def objective(params: Params, part: Part) -> tuple[jax.Array, jax.Array]:
            dropping = None
            if self._run.model.dropout_rate:
                dropping = Dropping(controls.dropout_rate, seed, controls.step, part.first_row)
            logits = self._forward(params, part.inputs, dropping)
            loss = loss_sum(logits, part.labels, self._run.training.label_smoothing) / count
            return loss, correct_count(logits, part.labels)

        whole, parts = Part(inputs, labels, first_row), self._run.training.gradient_accumulation
        differentiated = jax.value_and_grad(objective, has_aux=True)
        (loss, correct), gradients = sum_over_parts(differentiated, state.params, whole, parts)
        estimate = None
        if self._estimator is not None:
            estimate = partial(self._estimator, state.params, whole, count, controls.step)
        params, optimizer, metrics = self._update(
            state.params, state.optimizer, gradients, learning_rate=controls.learning_rate, estimate=estimate
        )
        metrics |= {"loss": loss, "correct": correct, "count": count}
        return State(params, optimizer, state.consumed + 1), metrics

    def _trace_evaluate(self, params: Params, batch: Placed) -> Metrics:
        inputs, labels = (array.reshape(-1, *array.shape[2:]) for array in (batch.inputs, batch.labels))
        logits = self._forward(params, inputs, None)
        return {
            "loss_sum": loss_sum(logits, labels, 0.0),
            "correct": correct_count(logits, labels),
            "count": (labels >= 0).sum(dtype=jnp.int32),
        }


def _refuse_what_flax_cannot_do(run: RunSpec) -> None:
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched > 1 or jax.process_count() > 1:
        raise UsageError(
            f"backend 'flax' trains in one process, but {max(launched, jax.process_count())} were launched; "
            "start it without a launcher, or use backend 'torch'"
        )
    if run.distributed.zero_stage:
        raise ConfigError(
            f"distributed.zero_stage: {run.distributed.zero_stage} partitions over DeepSpeed processes; "
            "backend 'flax' takes 0 only"
        )
    if run.training.batch_size % run.training.gradient_accumulation:
        raise ConfigError(
            f"training.gradient_accumulation: {run.training.gradient_accumulation} does not divide "
            f"training.batch_size {run.training.batch_size}"
        )
