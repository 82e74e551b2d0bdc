"""What a learner asks of the engine that owns parameters, gradients and optimizer; and the plain one.

DeepSpeed's is in torch_deepspeed.py. The plain one, for one process, stands in where DeepSpeed cannot be installed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

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


class Piece(NamedTuple):
    """One process's piece of one parameter, to be read and written in place. All arrays are flat and of one length."""

    name: str
    start: int
    """Index in the flattened parameter of the piece's first element."""
    weights: Tensor
    gradient: Tensor
    slots: Mapping[str, Tensor]


class Engine(Protocol):
    """Parameters, gradients and optimizer state of one model, partitioned or not. Methods are collective.

    A step is `add_gradients` for every part of its batch, then `update` or `discard`; between them, `pieces` shows the
    gradients of the whole batch.
    """

    def __call__(self, *args: Any) -> Tensor:
        """The module's logits; gradients are recorded unless they are switched off."""
        ...

    @property
    def module(self) -> nn.Module:
        """The module itself, for passes that update nothing. Under ZeRO-3 it holds no weights."""
        ...

    def add_gradients(self, loss: Tensor, *, last: bool) -> None:
        """Add the gradients of a part of a step's batch; after the last, they are summed over the processes."""
        ...

    def pieces(self) -> list[Piece]:
        """What this process has of every parameter after the last `add_gradients`, in the module's order.

        Where nothing is partitioned every process has everything, and the same; else each element is one process's.
        """
        ...

    def add_up(self, values: Tensor) -> Tensor:
        """The sum of what every process computed from its pieces, where these differ; perhaps in place."""
        ...

    def update(self) -> bool:
        """Let the optimizer move the weights, and forget the gradients; whether it did move them."""
        ...

    def discard(self) -> None:
        """Forget the gradients."""
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

    @property
    def module(self) -> nn.Module:
        return self._module

    def add_gradients(self, loss: Tensor, *, last: bool) -> None:
        del last
        torch.autograd.backward(loss)

    def pieces(self) -> list[Piece]:
        return whole_pieces(self._optimizer, self._parameters)

    def add_up(self, values: Tensor) -> Tensor:
        return values

    def update(self) -> bool:
        self._optimizer.step()
        self.discard()
        return True

    def discard(self) -> None:
        self._optimizer.zero_grad(set_to_none=True)

    def set_learning_rate(self, value: float) -> None:
        set_learning_rate(self._optimizer, value)

    def parameter(self, name: str) -> Tensor:
        return self._parameters[name].detach()

    def slot(self, slot: str, name: str) -> Tensor:
        return whole_slot(self._optimizer, self._parameters[name], slot)

    def close(self) -> None:
        self.discard()


def set_learning_rate(optimizer: RuleOptimizer, value: float) -> None:
    """In every group; `lr_scale` tells them apart."""
    for group in optimizer.param_groups:
        group["lr"] = value


def whole_slot(optimizer: RuleOptimizer, parameter: Tensor, slot: str) -> Tensor:
    """A slot of an unpartitioned parameter."""
    tensor: Tensor = optimizer.slots_of(parameter)[slot]
    return tensor


def whole_pieces(optimizer: RuleOptimizer, parameters: Mapping[str, Tensor]) -> list[Piece]:
    """Unpartitioned parameters as pieces. Their arrays are contiguous: gradients get their parameters' strides."""
    pieces = []
    for name, parameter in parameters.items():
        gradient = parameter.grad
        if gradient is not None:
            state = optimizer.slots_of(parameter)
            slots = {slot: state[slot].view(-1) for slot in optimizer.bound.slots}
            pieces.append(Piece(name, 0, parameter.detach().view(-1), gradient.view(-1), slots))
    return pieces


def load_whole_slots(optimizer: RuleOptimizer, parameters: Mapping[str, Tensor], resume: Resume) -> None:
    """Fill the slots and step counts of unpartitioned parameters."""
    for name, parameter in parameters.items():
        state = optimizer.slots_of(parameter)
        state["step"] = resume.applied
        for slot, tensors in resume.slots.items():
            state[slot].copy_(tensors[name])
