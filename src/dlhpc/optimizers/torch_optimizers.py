"""The shared rules as torch optimizers, drop-ins that need nothing else of this system.

    optimizer = build(model.parameters(), LionSpec(), lr=1e-4)

A group may hold `lr` (a number or a 0-d tensor), `lr_scale` (a factor on lr, 1 when absent) and `weight_decay` (the
spec's when absent). Slots have the parameter's dtype and layout; the step is counted per parameter, because ZeRO-3
calls `step()` once per slice of a group. On a CPU the update runs as machine code in one pass over memory (native.py),
on accelerators through torch.compile (torch_compiled.py), and where neither can, operation by operation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import is_
from typing import Any, Literal, overload

import numpy as np
import torch
from torch import Tensor

from dlhpc.optimizers import native
from dlhpc.optimizers.rules import BoundRule, Coefficients, Scalars, bind
from dlhpc.optimizers.torch_compiled import CompiledLists
from dlhpc.spec.optimizer import OptimizerSpec

BLOCK = 1 << 18
"""Elements updated at a time, operation by operation on a CPU: temporaries then fit the cache, and memory."""

Execution = Literal["auto", "compiled", "eager"]

_Update = tuple[Tensor, Tensor, list[Tensor], Coefficients]
"""One parameter's work: x, g and slots, arrays of this process and of one shape, and the rule's numbers."""

_Dense = tuple[Tensor, int, list[Tensor]]
"""A parameter that machine code can move, its address, and its slots."""

PLAIN = (torch.nn.Parameter, Tensor)
"""Types of tensors that are wholly on this process."""


class RuleOptimizer(torch.optim.Optimizer):
    """One bound rule over all parameters."""

    def __init__(
        self,
        params: Iterable[Any],
        bound: BoundRule,
        *,
        lr: float | Tensor,
        weight_decay: float,
        execution: Execution = "auto",
    ) -> None:
        self.bound = bound
        self._execution = execution
        self._kernels: dict[torch.dtype, native.Kernel | None] = {}
        self._compiled = CompiledLists(self.bound)
        self._estimates: dict[Tensor, Tensor] = {}
        self._dense: dict[int, _Dense] = {}
        super().__init__(params, {"lr": lr, "lr_scale": 1.0, "weight_decay": weight_decay})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's. Raises ValueError for complex parameters, and a rate, scale or decay below 0 or not finite."""
        for name, default in self.defaults.items():
            value = float(param_group.get(name, default))
            if not 0.0 <= value < math.inf:
                raise ValueError(f"{name}: {value} came, expected a finite number that is not negative")
        super().add_param_group(param_group)
        if any(parameter.is_complex() for parameter in self.param_groups[-1]["params"]):
            raise ValueError("complex parameters are not supported: use torch.view_as_real")

    def slots_of(self, parameter: Tensor) -> dict[str, Any]:
        """The parameter's slots and step (an int), made (zero) when it has none yet."""
        state: dict[str, Any] = self.state[parameter]
        if not state:
            state["step"] = 0
            for name in self.bound.slots:
                state[name] = torch.zeros_like(parameter)
        return state

    def set_hessian(self, estimates: Mapping[Tensor, Tensor] | Iterable[Tensor]) -> None:
        """Estimates of the Hessian's diagonal, averaged in by the next `step()` before it moves anything.

        A mapping from parameters, or one tensor per parameter in the groups' order, each of its parameter's shape.
        Raises ValueError for an optimizer without curvature, an unknown parameter or another shape.
        """
        if self.bound.curvature is None:
            raise ValueError("this optimizer takes no Hessian estimates; sophia does")
        known = [parameter for group in self.param_groups for parameter in group["params"]]
        pairs = dict(estimates) if isinstance(estimates, Mapping) else dict(zip(known, estimates, strict=True))
        strangers = pairs.keys() - set(known)
        if strangers:
            raise ValueError(f"{len(strangers)} estimate(s) for tensors that this optimizer does not have")
        for parameter, estimate in pairs.items():
            if estimate.shape != parameter.shape:
                raise ValueError(f"an estimate of shape {_shape(estimate)} for a parameter of {_shape(parameter)}")
        self._estimates.update(pairs)

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
        self._move()
        self._estimates.clear()
        return loss

    def _updates(self) -> Iterator[_Update]:
        names = self.bound.slots
        for group in self.param_groups:
            lr, decay = float(group["lr"]) * group["lr_scale"], float(group["weight_decay"])
            t = 0
            numbers: Coefficients = ()
            for parameter in group["params"]:
                g = parameter.grad
                if g is None:
                    continue
                state = self.state[parameter] or self.slots_of(parameter)
                if self._estimates:
                    self._fold_estimate(parameter, state)
                state["step"] += 1
                if state["step"] != t:  # nearly always it is the neighbour's
                    t = state["step"]
                    numbers = tuple(map(float, self.bound.coefficients(np, Scalars(lr, decay, t))))
                x, slots = parameter, [state[name] for name in names]
                if type(parameter) not in PLAIN:
                    x, g, *slots = map(_local, (x, g, *slots))
                yield x, g, slots, numbers

    def _fold_estimate(self, parameter: Tensor, state: dict[str, Any]) -> None:
        curvature = self.bound.curvature
        estimate = self._estimates.get(parameter)
        if curvature is not None and estimate is not None:
            state[curvature.slot].copy_(curvature.fold(state[curvature.slot], estimate))

    # -- the three ways to run it ------------------------------------------------------------------------------------

    def _move(self) -> None:
        dense: dict[torch.dtype, list[_Update]] = {torch.float32: [], torch.float64: []}
        lists: dict[torch.device, list[_Update]] = {}
        for update in self._updates():
            x, g, slots, _ = update
            if g.is_sparse:
                raise ValueError("sparse gradients are not supported: use dense ones (nn.Embedding(..., sparse=False))")
            if self._execution == "auto" and self._is_dense(x, g, slots):
                dense[g.dtype].append(update)
            elif self._execution == "compiled" or (self._execution == "auto" and not x.is_cpu):
                lists.setdefault(x.device, []).append(update)
            else:
                self._move_eagerly(update)
        for dtype, updates in dense.items():
            if updates:
                self._move_natively(dtype, updates)
        for updates in lists.values():
            self._compiled(updates)

    def _is_dense(self, x: Tensor, g: Tensor, slots: list[Tensor]) -> bool:
        """Whether machine code can walk through the arrays side by side.

        Asking each of them takes longer than moving a small one: so the verdict on a parameter and its slots stands as
        long as they are the same tensors, the parameter in the same place.
        """
        if not (x.is_contiguous() and g.is_contiguous()):
            return False
        seen = self._dense.get(id(x))
        if seen is None or seen[0] is not x or seen[1] != x.data_ptr() or not all(map(is_, seen[2], slots)):
            if not _are_dense(x, slots):
                return False
            if type(x) is torch.nn.Parameter:  # others may be made anew for every step
                self._dense[id(x)] = x, x.data_ptr(), slots
        return g.dtype is x.dtype

    def _move_natively(self, dtype: torch.dtype, updates: list[_Update]) -> None:
        if dtype not in self._kernels:
            self._kernels[dtype] = native.kernel(self.bound, "float" if dtype == torch.float32 else "double")
        kernel = self._kernels[dtype]
        if kernel is None:
            for update in updates:
                self._move_eagerly(update)
            return
        sizes: list[int] = []
        addresses: list[int] = []
        numbers: list[float] = []
        written: list[Tensor] = []
        for x, g, slots, coefficients in updates:
            sizes.append(x.numel())
            addresses += x.data_ptr(), g.data_ptr()
            addresses += [slot.data_ptr() for slot in slots]
            numbers += coefficients
            written.append(x)
            written += slots
        kernel(sizes, addresses, numbers, torch.get_num_threads())
        torch.autograd.graph.increment_version(written)  # so that a stale backward pass is noticed

    def _move_eagerly(self, update: _Update) -> None:
        for x, g, *slots in _blocks(update):
            new_slots, new_x = self.bound.move(torch, g, tuple(slots), x, update[3])
            for old, new in zip((x, *slots), (new_x, *new_slots), strict=True):
                old.copy_(new)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, but slots keep the dtype they were saved in (torch casts them to the parameter's).

        Raises ValueError for slots of another optimizer or another shape; then nothing has changed.
        """
        numbers = (number for group in state_dict["param_groups"] for number in group["params"])
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        pairs = zip(parameters, numbers, strict=False)  # torch itself refuses other numbers of parameters
        saved = {parameter: state_dict["state"].get(number) for parameter, number in pairs}
        for index, parameter in enumerate(parameters):
            self._verify(f"the state of parameter {index}", parameter, saved.get(parameter))
        super().load_state_dict(state_dict)
        for parameter, state in saved.items():
            for name in self.bound.slots if state else ():
                self.state[parameter][name] = state[name].to(parameter.device, copy=True)
            if state:
                self.state[parameter]["step"] = int(state["step"])

    def _verify(self, where: str, parameter: Tensor, state: Mapping[str, Any] | None) -> None:
        if not state:
            return
        expected = {"step", *self.bound.slots}
        if state.keys() != expected:
            names, own = (", ".join(sorted(keys)) for keys in (state, expected))
            raise ValueError(f"{where} holds {names}, expected {own}")
        for name in self.bound.slots:
            if state[name].shape != parameter.shape:
                raise ValueError(f"{where}: {name} of shape {_shape(state[name])}, expected {_shape(parameter)}")


def build(
    params: Iterable[Any], spec: OptimizerSpec, *, lr: float | Tensor = 1e-3, execution: Execution = "auto"
) -> RuleOptimizer:
    """A torch optimizer for parameters, named parameters or groups, with the spec's rule and constants.

    `execution` is for comparisons: `compiled` uses torch.compile on a CPU too, `eager` compiles nothing.
    """
    return RuleOptimizer(params, bind(spec), lr=lr, weight_decay=spec.weight_decay, execution=execution)


def _local(tensor: Tensor) -> Tensor:
    """This process's part of a distributed tensor; others as they are. Element-wise rules need no more."""
    to_local: Callable[[], Tensor] | None = getattr(tensor, "to_local", None)
    return tensor if to_local is None else to_local()


def _are_dense(x: Tensor, slots: list[Tensor]) -> bool:
    """Whether they are on the CPU, contiguous, and of one format that machine code is made for."""
    dtype = x.dtype
    if not x.is_cpu or (dtype is not torch.float32 and dtype is not torch.float64):
        return False
    return all(slot.dtype is dtype and slot.is_cpu and slot.is_contiguous() for slot in slots)


def _blocks(update: _Update) -> Iterator[tuple[Tensor, ...]]:
    """Parameter, gradient and slots whole, or on a CPU in flat views of at most BLOCK elements."""
    x, g, slots, _ = update
    g = g.to(slots[0].dtype) if slots else g  # a loaded state may be wider than the parameter
    written = [x, *slots]
    small = x.numel() <= BLOCK or x.device.type != "cpu"
    if small or not all(tensor.is_contiguous() for tensor in written):
        yield x, g, *slots
        return
    flat = [tensor.view(-1) for tensor in (x, g.contiguous(), *slots)]
    yield from zip(*(tensor.split(BLOCK) for tensor in flat), strict=True)


def _shape(tensor: Tensor) -> str:
    return f"({', '.join(map(str, tensor.shape))})"
