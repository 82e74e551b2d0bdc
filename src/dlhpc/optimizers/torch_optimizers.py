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


class _Batch:
    """What machine code moves in one call: dense arrays of one number format on the CPU."""

    def __init__(self, kernel: native.Kernel) -> None:
        self.kernel = kernel
        self.clear()

    def clear(self) -> None:
        """Forget the arrays."""
        self.sizes: list[int] = []
        self.addresses: list[int] = []
        self.numbers: list[float] = []
        self.written: list[Tensor] = []

    def add(self, x: Tensor, address: int, size: int, g: Tensor, slots: list[Tensor], numbers: Coefficients) -> None:
        """Let this parameter be moved too."""
        self.sizes.append(size)
        self.addresses += address, g.data_ptr(), *map(_ADDRESS, slots)
        self.numbers += numbers
        self.written.append(x)
        self.written += slots

    def move(self) -> None:
        """Move them."""
        if self.sizes:
            self.kernel(self.sizes, self.addresses, self.numbers, torch.get_num_threads())
            torch.autograd.graph.increment_version(self.written)  # so that a stale backward pass is noticed


_Dense = tuple[Tensor, int, int, torch.dtype, list[Tensor], _Batch]
"""A parameter that machine code can move: itself, its address, size and format, its slots, and what moves with it."""

_ADDRESS = Tensor.data_ptr

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
        self._batches: dict[torch.dtype, _Batch | None] = {}
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
        """What is to be moved and is not known to be dense; what is goes into its batch at once, which costs less."""
        names, states, dense = self.bound.slots, self.state, self._dense
        for group in self.param_groups:
            lr, decay = float(group["lr"]) * group["lr_scale"], float(group["weight_decay"])
            t = 0
            numbers: Coefficients = ()
            for x in group["params"]:
                g = x.grad
                if g is None:
                    continue
                state = states[x] or self.slots_of(x)
                if self._estimates:
                    self._fold_estimate(x, state)
                state["step"] = step = state["step"] + 1
                if step != t:  # nearly always it is the neighbour's
                    t = step
                    numbers = tuple(map(float, self.bound.coefficients(np, Scalars(lr, decay, t))))
                slots = [state[name] for name in names]
                seen = dense.get(id(x))
                if seen is not None:
                    known, address, size, dtype, known_slots, batch = seen
                    if (
                        known is x
                        and address == x.data_ptr()
                        and all(map(is_, known_slots, slots))
                        and x.is_contiguous()
                        and g.is_contiguous()  # a sparse one is not
                        and g.dtype is dtype
                    ):
                        batch.add(x, address, size, g, slots, numbers)
                        continue
                if type(x) not in PLAIN:
                    x, g, *slots = map(_local, (x, g, *slots))  # noqa: PLW2901 - the part of it that is here
                yield x, g, slots, numbers

    def _fold_estimate(self, parameter: Tensor, state: dict[str, Any]) -> None:
        curvature = self.bound.curvature
        estimate = self._estimates.get(parameter)
        if curvature is not None and estimate is not None:
            state[curvature.slot].copy_(curvature.fold(state[curvature.slot], estimate))

    # -- the three ways to run it ------------------------------------------------------------------------------------

    def _move(self) -> None:
        batches = self._batches.values()
        try:
            self._sort()
            for batch in batches:
                if batch is not None:
                    batch.move()
        finally:  # a step that failed half way must leave no address behind
            for batch in batches:
                if batch is not None:
                    batch.clear()

    def _sort(self) -> None:
        """Put what machine code can move into its batch, and move the rest."""
        lists: dict[torch.device, list[_Update]] = {}
        for update in self._updates():
            x, g, slots, numbers = update
            if g.is_sparse:
                raise ValueError("sparse gradients are not supported: use dense ones (nn.Embedding(..., sparse=False))")
            batch = self._batch_of(x, g, slots) if self._execution == "auto" else None
            if batch is not None:
                batch.add(x, x.data_ptr(), x.numel(), g, slots, numbers)
            elif self._execution == "compiled" or (self._execution == "auto" and not x.is_cpu):
                lists.setdefault(x.device, []).append(update)
            else:
                self._move_eagerly(update)
        for updates in lists.values():
            self._compiled(updates)

    def _batch_of(self, x: Tensor, g: Tensor, slots: list[Tensor]) -> _Batch | None:
        """The batch that these arrays belong to; None when machine code cannot walk through them side by side.

        Asking each of them takes longer than moving a small one: so the verdict on a parameter and its slots stands as
        long as they are the same tensors, the parameter in the same place.
        """
        dtype = x.dtype
        if g.dtype is not dtype or not (x.is_contiguous() and g.is_contiguous() and _are_dense(x, slots)):
            return None
        if dtype not in self._batches:
            kernel = native.kernel(self.bound, "float" if dtype == torch.float32 else "double")
            self._batches[dtype] = None if kernel is None else _Batch(kernel)
        batch = self._batches[dtype]
        if batch is not None and type(x) is torch.nn.Parameter:  # others may be made anew for every step
            self._dense[id(x)] = x, x.data_ptr(), x.numel(), dtype, slots, batch
        return batch

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
