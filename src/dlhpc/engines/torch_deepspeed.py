"""The DeepSpeed engine: ZeRO 0 to 3 around one of our optimizers.

DeepSpeed is imported when the first engine is made. It is kept from what it does by itself: building a C++ extension
for shared-memory collectives that only inference uses, looking for MPI, and writing to stdout.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import sys
import warnings
from contextlib import redirect_stdout
from typing import Any

import torch
from torch import Tensor, nn

from dlhpc.engines.torch_engine import Piece, Resume, load_whole_slots, set_learning_rate, whole_pieces, whole_slot
from dlhpc.engines.torch_processes import Launch, sum_over_processes
from dlhpc.errors import TrainingError
from dlhpc.optimizers.torch_optimizers import RuleOptimizer
from dlhpc.spec.run import RunSpec

LARGEST_BUCKET = 50_000_000
"""Elements reduced at once; DeepSpeed's default allocates 2 GB for the smallest model."""


def available() -> bool:
    """Whether DeepSpeed is installed (it is no dependency on platforms that it does not support)."""
    return importlib.util.find_spec("deepspeed") is not None


def prepare() -> Any:
    """The deepspeed package, imported and made quiet."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    with redirect_stdout(sys.stderr):
        deepspeed = importlib.import_module("deepspeed")
        operations = importlib.import_module("deepspeed.ops")
    # The table of extensions that may be built, which is otherwise filled by running compilers.
    vars(operations).setdefault("__compatible_ops__", {})
    logger = logging.getLogger("DeepSpeed")
    logger.handlers.clear()  # it writes to stdout, where results go
    logger.propagate = True
    logger.setLevel(logging.WARNING)
    if _is_news not in logger.filters:
        logger.addFilter(_is_news)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\.c10d_logger")
    return deepspeed


def _is_news(record: logging.LogRecord) -> bool:
    # Our optimizers are tested under ZeRO: this repository's tests do that.
    return "untested optimizer" not in record.getMessage()


def configuration(run: RunSpec, world_size: int, elements: int) -> dict[str, Any]:
    """The DeepSpeed configuration of a run for a model of this many elements."""
    parts = run.training.gradient_accumulation
    return {
        "train_batch_size": run.training.batch_size,
        "train_micro_batch_size_per_gpu": run.training.batch_size // (parts * world_size),
        "gradient_accumulation_steps": parts,
        "zero_optimization": {
            "stage": run.distributed.zero_stage,
            "reduce_bucket_size": min(elements, LARGEST_BUCKET),
            "overlap_comm": False,
            "stage3_param_persistence_threshold": run.distributed.persistence_threshold,
        },
        "gradient_clipping": 0.0,  # DeepSpeed's own default clips to a norm of 1
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


class DeepSpeedEngine:
    """A module under `deepspeed.initialize`."""

    def __init__(
        self, module: nn.Module, optimizer: RuleOptimizer, resume: Resume | None, *, run: RunSpec, launch: Launch
    ) -> None:
        deepspeed = prepare()
        elements = sum(parameter.numel() for parameter in module.parameters())
        config = configuration(run, launch.world_size, elements)
        with redirect_stdout(sys.stderr):
            self._engine = deepspeed.initialize(model=module, optimizer=optimizer, config=config)[0]
        self._optimizer, self._stage = optimizer, run.distributed.zero_stage
        self._parameters: dict[str, nn.Parameter] = dict(module.named_parameters())
        self._rank, self._world_size = launch.rank, launch.world_size
        self._accumulates = run.training.gradient_accumulation > 1
        if launch.world_size == 1 and self._stage == 0:
            self._engine.enable_backward_allreduce = False  # nobody to sum with: saves two thread switches a step
        if run.training.precision == "float64":
            self._engine.communication_data_type = torch.float64  # gradients would travel as float32
        self._make_slots(resume)

    def __call__(self, *args: Any) -> Tensor:
        # Without ZeRO the engine's own forward pass only prepares for a backward pass behind its back.
        logits: Tensor = self._engine(*args) if self._stage else self._engine.module(*args)
        return logits

    @property
    def module(self) -> nn.Module:
        module: nn.Module = self._engine.module
        return module

    def add_gradients(self, loss: Tensor, *, last: bool) -> None:
        if self._accumulates:
            self._engine.set_gradient_accumulation_boundary(last)
        if self._world_size > 1:
            loss = loss * self._world_size  # DeepSpeed averages over the processes, where the parts are to be added
        self._engine.backward(loss, scale_wrt_gas=False)

    def pieces(self) -> list[Piece]:
        if self._stage == 0:
            return whole_pieces(self._optimizer, self._parameters)
        cut = self._piece_of_stage_3 if self._stage == 3 else self._piece_of_stage_2
        return [piece for name, parameter in self._parameters.items() if (piece := cut(name, parameter)) is not None]

    def add_up(self, values: Tensor) -> Tensor:
        return sum_over_processes(values) if self._stage and self._world_size > 1 else values

    def update(self) -> bool:
        self._engine.step()
        applied: bool = self._engine.was_step_applied()
        return applied

    def discard(self) -> None:
        self._engine.zero_grad()
        if self._stage:
            self._engine.optimizer.zero_grad()

    def set_learning_rate(self, value: float) -> None:
        set_learning_rate(self._optimizer, value)

    def parameter(self, name: str) -> Tensor:
        parameter = self._parameters[name]
        if self._stage < 3:
            return parameter.detach()
        return self._whole(importlib.import_module("deepspeed.utils").safe_get_full_fp32_param(parameter))

    def slot(self, slot: str, name: str) -> Tensor:
        parameter = self._parameters[name]
        if self._stage == 0:
            return whole_slot(self._optimizer, parameter, slot)
        return self._whole(importlib.import_module("deepspeed.utils").safe_get_full_optimizer_state(parameter, slot))

    def close(self) -> None:
        self._engine.destroy()

    def _make_slots(self, resume: Resume | None) -> None:
        """Slots exist from the start, so that a state can be saved before its first step; resuming fills them."""
        if self._stage == 0:
            if resume is not None:
                load_whole_slots(self._optimizer, self._parameters, resume)
            return
        zero = self._engine.optimizer
        flat = zero.fp32_partitioned_groups_flat if self._stage == 3 else zero.single_partition_of_fp32_groups
        for slice_of_group in flat:
            state = self._optimizer.slots_of(slice_of_group)
            state["step"] = 0 if resume is None else resume.applied
        if self._stage < 3:
            zero._lazy_init_hp_params_optimizer_state()  # otherwise done by the first step
        for slot, tensors in () if resume is None else resume.slots.items():
            for name, parameter in self._parameters.items():
                self._fill_slot(parameter, slot, tensors[name])

    def _fill_slot(self, parameter: nn.Parameter, slot: str, tensor: Tensor) -> None:
        utils = importlib.import_module("deepspeed.utils")
        if self._stage < 3:
            utils.safe_set_full_optimizer_state(parameter, tensor, slot)
            return
        # The function for whole tensors cannot write the last process's slice where the cut leaves a remainder.
        length: int = parameter.ds_tensor.numel()  # type: ignore[attr-defined]
        padded = torch.zeros(length * self._world_size, dtype=tensor.dtype)
        padded[: tensor.numel()] = tensor.flatten()
        start = length * self._rank
        utils.safe_set_local_optimizer_state(parameter, padded[start : start + length], slot)

    def _piece_of_stage_2(self, name: str, parameter: Any) -> Piece | None:
        """Of stage 1 too: the slice of a group's flat array that this process updates, where it meets the parameter."""
        mapping = parameter._hp_mapping
        if mapping is None:
            return None
        slots = {slot: mapping.get_hp_fragment(slot) for slot in self._optimizer.bound.slots}
        gradient = mapping.get_lp_grad_fragment(parameter._index_in_param_group)
        return Piece(name, mapping.lp_fragment_address.start, mapping.get_hp_fragment(), gradient.view(-1), slots)

    def _piece_of_stage_3(self, name: str, parameter: Any) -> Piece | None:
        """Every process has an equal share of every parameter; the last shares may hold padding, or nothing else."""
        utils = importlib.import_module("deepspeed.utils")
        start = parameter.ds_tensor.numel() * self._rank
        length = min(parameter.ds_tensor.numel(), parameter.ds_numel - start)
        if length <= 0:
            return None
        slots = {
            slot: utils.safe_get_local_optimizer_state(parameter, slot)[:length] for slot in self._optimizer.bound.slots
        }
        weights, gradient = utils.safe_get_local_fp32_param(parameter), utils.safe_get_local_grad(parameter)
        return Piece(name, start, weights[:length], gradient[:length], slots)

    def _whole(self, gathered: Tensor | None) -> Tensor:
        if gathered is None:
            raise TrainingError(f"DeepSpeed gave no whole tensor under ZeRO-{self._stage}: is its version supported?")
        return gathered
