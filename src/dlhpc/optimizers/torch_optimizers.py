"""The shared rules as torch optimizers.

    optimizer = build(model.parameters(), LionSpec(), lr=1e-4)

A group may hold `lr`, `lr_scale` (a factor on lr, 1 when absent) and `weight_decay` (the spec's when absent).
Slots have the parameter's dtype and shape; the step is counted per parameter, because ZeRO-3 calls `step()` once per
slice of a group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, overload

import torch
from torch import Tensor

from dlhpc.optimizers.rules import BoundRule, Scalars, bind
from dlhpc.spec.optimizer import OptimizerSpec

BLOCK = 1 << 18
"""Elements updated at a time on a CPU: a rule's temporaries then fit the cache, and memory holds no copies."""


class InPlace:
    """torch as a namespace for the rules. The sums are computed in the memory of their first argument, as fast as
    torch's own optimizers; rates are numbers."""

    sign = staticmethod(torch.sign)
    sqrt = staticmethod(torch.sqrt)
    expm1 = staticmethod(torch.expm1)

    def ema(self, old: Tensor, new: Tensor, keep: float) -> Tensor:
        return old.lerp_(new, 1.0 - keep)

    def ema_of_square(self, old: Tensor, new: Tensor, keep: float) -> Tensor:
        return old.mul_(keep).addcmul_(new, new, value=1.0 - keep)

    def root_of_ratio_plus(self, above: Tensor, below: float, eps: float) -> Tensor:
        return above.div(below).sqrt_().add_(eps)

    def shrink_minus(self, x: Tensor, shrink: float, rate: float, step: Tensor) -> Tensor:
        return x.mul_(shrink).sub_(step, alpha=rate)

    def shrink_minus_ratio(self, x: Tensor, shrink: float, rate: float, above: Tensor, below: Tensor) -> Tensor:
        return x.mul_(shrink).addcdiv_(above, below, value=-rate)


IN_PLACE = InPlace()


class RuleOptimizer(torch.optim.Optimizer):
    """One bound rule over all parameters."""

    def __init__(self, params: Iterable[Any], bound: BoundRule, *, lr: float | Tensor, weight_decay: float) -> None:
        self.bound = bound
        super().__init__(params, {"lr": lr, "lr_scale": 1.0, "weight_decay": weight_decay})

    def slots_of(self, parameter: Tensor) -> dict[str, Any]:
        """The parameter's slots and step, made (zero) when it has none yet."""
        state: dict[str, Any] = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.int64)
            for name in self.bound.slots:
                state[name] = torch.zeros_like(parameter)
        return state

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            lr = float(group["lr"]) * group["lr_scale"]
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, lr, group["weight_decay"])
        return loss

    def _update(self, parameter: Tensor, gradient: Tensor, lr: float, decay: float) -> None:
        if gradient.is_sparse:
            raise ValueError("sparse gradients are not supported: use dense ones (nn.Embedding(..., sparse=False))")
        state = self.slots_of(parameter)
        state["step"] += 1
        scalars = Scalars(lr, decay, int(state["step"]))
        slots = [state[name] for name in self.bound.slots]
        if slots:
            gradient = gradient.to(slots[0].dtype)  # a loaded state may be wider than the parameter
        for x, g, *block_slots in _blocks(parameter, gradient, slots):
            new_slots, new_x = self.bound.rule(IN_PLACE, g, tuple(block_slots), x, scalars)
            for old, new in zip((x, *block_slots), (new_x, *new_slots), strict=True):
                if new is not old:
                    old.copy_(new)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, but slots keep the dtype they were saved in (torch casts them to the parameter's)."""
        super().load_state_dict(state_dict)
        numbers = (number for group in state_dict["param_groups"] for number in group["params"])
        parameters = (parameter for group in self.param_groups for parameter in group["params"])
        for number, parameter in zip(numbers, parameters, strict=True):
            saved = state_dict["state"].get(number, {})
            for name in self.bound.slots:
                if name in saved:
                    self.state[parameter][name] = saved[name].to(parameter.device, copy=True)


def build(params: Iterable[Any], spec: OptimizerSpec, *, lr: float | Tensor = 1e-3) -> RuleOptimizer:
    """A torch optimizer for parameters, named parameters or groups, with the spec's rule and constants."""
    return RuleOptimizer(params, bind(spec), lr=lr, weight_decay=spec.weight_decay)


def _blocks(parameter: Tensor, gradient: Tensor, slots: list[Tensor]) -> Iterator[tuple[Tensor, ...]]:
    """Parameter, gradient and slots whole, or on a CPU in flat views of at most BLOCK elements."""
    written = [parameter, *slots]
    small = parameter.numel() <= BLOCK or parameter.device.type != "cpu"
    if small or not all(tensor.is_contiguous() for tensor in written):
        yield parameter, gradient, *slots
        return
    flat = [tensor.view(-1) for tensor in (parameter, gradient.contiguous(), *slots)]
    yield from zip(*(tensor.split(BLOCK) for tensor in flat), strict=True)
