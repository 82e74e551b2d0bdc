"""What a learner asks of the engine that owns parameters, gradients and optimizer; and the plain one.

DeepSpeed's is in torch_deepspeed.py. The plain one, for one process, stands in where DeepSpeed cannot be installed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dlhpc.optimizers.torch_optimizers import RuleOptimizer


@dataclass(frozen=True)
class Resume:
    """What an engine starts with besides its module's weights: the optimizer's state, by the framework's names."""

    slots: Mapping[str, Mapping[str, Tensor]]
    """Slot -> parameter name -> array."""
    applied: int
    """Updates made so far."""


class Engine(Protocol):
    """Parameters, gradients and optimizer state of one model, partitioned or not. Methods are collective."""

    def __call__(self, *args: Any) -> Tensor:
        """The module's logits; gradients are recorded unless they are switched off."""
        ...

    def descend(self, loss: Tensor, *, last: bool) -> None:
        """Add the gradients of a part of a step's batch; after the last, sum over the processes and update."""
        ...

    def set_learning_rate(self, value: float) -> None:
        """Of the next update; the groups scale it."""
        ...

    def parameter(self, name: str) -> Tensor:
        """A whole parameter on this process, not to be written to."""
        ...

    def slot(self, slot: str, name: str) -> Tensor:
        """A whole slot of a parameter on this process, not to be written to."""
        ...

    def close(self) -> None:
        """Give back hooks and memory."""
        ...


class PlainEngine:
    """One process, nothing partitioned."""

    def __init__(self, module: nn.Module, optimizer: RuleOptimizer, resume: Resume | None) -> None:
        self._module, self._optimizer = module, optimizer
        self._parameters = dict(module.named_parameters())
        if resume is not None:
            load_whole_slots(optimizer, self._parameters, resume)

    def __call__(self, *args: Any) -> Tensor:
        logits: Tensor = self._module(*args)
        return logits

    def descend(self, loss: Tensor, *, last: bool) -> None:
        torch.autograd.backward(loss)
        if last:
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)

    def set_learning_rate(self, value: float) -> None:
        set_learning_rate(self._optimizer, value)

    def parameter(self, name: str) -> Tensor:
        return self._parameters[name].detach()

    def slot(self, slot: str, name: str) -> Tensor:
        return whole_slot(self._optimizer, self._parameters[name], slot)

    def close(self) -> None:
        self._optimizer.zero_grad(set_to_none=True)


def set_learning_rate(optimizer: RuleOptimizer, value: float) -> None:
    """In every group; `lr_scale` tells them apart."""
    for group in optimizer.param_groups:
        group["lr"] = value


def whole_slot(optimizer: RuleOptimizer, parameter: Tensor, slot: str) -> Tensor:
    """A slot of an unpartitioned parameter."""
    tensor: Tensor = optimizer.slots_of(parameter)[slot]
    return tensor


def load_whole_slots(optimizer: RuleOptimizer, parameters: Mapping[str, Tensor], resume: Resume) -> None:
    """Fill the slots and step counts of unpartitioned parameters."""
    for name, parameter in parameters.items():
        state = optimizer.slots_of(parameter)
        state["step"] = resume.applied
        for slot, tensors in resume.slots.items():
            state[slot].copy_(tensors[name])
