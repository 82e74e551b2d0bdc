"""Steps of PyTorch optimizers to compare: this system's, torch's own, and other libraries' where they are installed."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from dlhpc.optimizers import torch_optimizers
from dlhpc.spec.optimizer import AdamWSpec, OptimizerSpec, SophiaSpec

Step = Callable[[], None]

LR = 1e-6
"""Small: the numbers stay tame however often a step is repeated."""


def steps(spec: OptimizerSpec, sizes: Sequence[int]) -> dict[str, Step]:
    """Implementation -> one step over float32 parameters of these sizes."""
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def parameters() -> list[torch.nn.Parameter]:
        made = [torch.nn.Parameter(torch.randn(size, device=device) * 0.01) for size in sizes]
        for parameter, gradient in zip(made, gradients, strict=True):
            parameter.grad = gradient
        return made

    gradients = [torch.randn(size, device=device) for size in sizes]
    ours = torch_optimizers.build(parameters(), spec, lr=LR)
    if isinstance(spec, SophiaSpec):
        ours.set_hessian([gradient.square() for gradient in gradients])
    found = {"dlhpc": _waited(ours)}
    if isinstance(spec, AdamWSpec):
        found["torch fused"] = _waited(torch.optim.AdamW(parameters(), lr=LR, fused=True))
    for name, optimizer in _peers(spec.name, parameters):
        if isinstance(spec, SophiaSpec):
            optimizer.step(hessian=[gradient.square() for gradient in gradients])
        found[name] = _waited(optimizer)
    return found


def _peers(name: str, parameters: Callable[[], list[torch.nn.Parameter]]) -> Iterator[tuple[str, Any]]:
    """Other libraries' optimizers of that name, as they come."""
    if importlib.util.find_spec("optimi") is not None:
        optimi = importlib.import_module("optimi")
        kinds = {"adamw": optimi.AdamW, "lion": optimi.Lion, "adan": optimi.Adan}
        if name in kinds:
            yield "torch-optimi", kinds[name](parameters(), lr=LR)
    if importlib.util.find_spec("pytorch_optimizer") is not None:
        library = importlib.import_module("pytorch_optimizer")
        kinds = {"lion": library.Lion, "adan": library.Adan, "adabelief": library.AdaBelief}
        if name in kinds:
            yield "pytorch_optimizer", kinds[name](parameters(), lr=LR)
        elif name == "sophia":
            yield "pytorch_optimizer", library.SophiaH(parameters(), lr=LR, update_period=1 << 30)


def _waited(optimizer: Any) -> Step:
    if not torch.cuda.is_available():
        return lambda: optimizer.step() and None

    def step() -> None:
        optimizer.step()
        torch.cuda.synchronize()

    return step


def temporary_bytes(step: Step) -> int | None:
    """Nothing tells, but on an accelerator: there the most that was allocated during a step."""
    if not torch.cuda.is_available():
        return None
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    return torch.cuda.max_memory_allocated() - before


def copy(elements: int) -> tuple[Step, int]:
    """A copy of so many float32, and the bytes that it reads and writes."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    source, target = torch.randn(elements, device=device), torch.empty(elements, device=device)

    def run() -> None:
        target.copy_(source)
        if device == "cuda":
            torch.cuda.synchronize()

    return run, 8 * elements
