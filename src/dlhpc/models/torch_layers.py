"""The layers of the PyTorch models: explicit about padding, precision and randomness, so that they equal Flax's.

A layer takes its sizes from the parameter table and computes in the dtype of its input; weights are kept in the
precision of the optimizer, cast on the way, and not initialised, because they are always loaded.
Images are (N, C, H, W) in channels_last memory, so that a view is (N, H, W, C).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, assert_never

import torch
from torch import Tensor, nn
from torch.nn import functional

from dlhpc import draws
from dlhpc.spec.model import Activation, ModelSpec
from dlhpc.weights.table import param_table

LAYER_NORM_EPS = 1e-6
Shape = tuple[int, ...]
"""Canonical shape of a row of the parameter table."""


class TorchWords:
    """32-bit words in int64 tensors (torch has no arithmetic on uint32); plain integers stay plain."""

    def word(self, x: Any) -> Any:
        return x & draws.MASK32

    def multiply(self, x: Any, constant: int) -> Any:
        return (x * constant) & draws.MASK32

    def add(self, x: Any, y: Any) -> Any:
        return (x + y) & draws.MASK32

    def unit(self, x: Any) -> Any:
        return (x >> 8).to(torch.float32) * 2.0**-24

    def cast(self, x: Any, dtype: Any) -> Any:
        return x.to(dtype)


WORDS = TorchWords()


@dataclass(frozen=True)
class Dropping:
    """What decides which activations are dropped, besides layer, row and column."""

    rate: float
    seed: int
    step: int
    first_row: int
    """Index in the global batch of the first row that the model is given."""


class Dense(nn.Module):
    """x @ W^T + b."""

    def __init__(self, kernel: Shape, dtype: torch.dtype) -> None:
        super().__init__()
        fan_in, out = kernel
        self.weight = nn.Parameter(torch.empty(out, fan_in, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(out, dtype=dtype))

    def forward(self, x_BI: Tensor) -> Tensor:
        return functional.linear(x_BI, self.weight.to(x_BI.dtype), self.bias.to(x_BI.dtype))


class Convolution(nn.Module):
    """A convolution with XLA's 'SAME' padding: ceil(size / stride) outputs, the odd row and column at the end."""

    def __init__(self, kernel: Shape, stride: int, dtype: torch.dtype) -> None:
        super().__init__()
        height, width, fan_in, out = kernel
        self.kernel_size, self.stride = (height, width), stride
        self.weight = nn.Parameter(torch.empty(out, fan_in, height, width, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(out, dtype=dtype))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        top, bottom = self._padding(x_BCHW.shape[2], self.kernel_size[0])
        left, right = self._padding(x_BCHW.shape[3], self.kernel_size[1])
        if top != bottom or left != right:
            x_BCHW = functional.pad(x_BCHW, (left, right, top, bottom))
            top = left = 0
        weight, bias = self.weight.to(x_BCHW.dtype), self.bias.to(x_BCHW.dtype)
        return functional.conv2d(x_BCHW, weight, bias, self.stride, (top, left))

    def _padding(self, size: int, kernel: int) -> tuple[int, int]:
        out = -(-size // self.stride)
        total = max((out - 1) * self.stride + kernel - size, 0)
        return total // 2, total - total // 2


class LayerNorm(nn.Module):
    """Layer norm over the last axis, in float32 at least (two passes: torch's kernel subtracts the mean first)."""

    def __init__(self, scale: Shape, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(scale, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(scale, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        shape, weight, bias = self.weight.shape, self.weight.to(wide), self.bias.to(wide)
        return functional.layer_norm(x.to(wide), shape, weight, bias, LAYER_NORM_EPS).to(x.dtype)


def activate(name: Activation, x: Tensor) -> Tensor:
    """The non-linearity of a spec; gelu is the exact one, by erf."""
    match name:
        case "relu":
            return functional.relu(x)
        case "gelu":
            return functional.gelu(x, approximate="none")
        case "silu":
            return functional.silu(x)
        case _:
            assert_never(name)


def drop(x_BF: Tensor, layer: int, dropping: Dropping | None) -> Tensor:
    """Drop activations of hidden dense layer `layer`; survivors grow by 1 / (1 - rate). None and rate 0 keep all."""
    if dropping is None or dropping.rate == 0.0:
        return x_BF
    rows = torch.arange(dropping.first_row, dropping.first_row + x_BF.shape[0], device=x_BF.device)[:, None]
    columns = torch.arange(x_BF.shape[1], device=x_BF.device)[None, :]
    u_BF = draws.uniform(WORDS, dropping.seed, dropping.step, layer, rows, columns)
    # The rate is compared in float32 and applied in the activations' dtype, as JAX does with a traced rate.
    keep_BF = u_BF >= torch.tensor(dropping.rate, dtype=torch.float32, device=x_BF.device)
    return torch.where(keep_BF, x_BF / (1.0 - dropping.rate), 0.0)


class DenseStack(nn.Module):
    """The hidden dense layers and the head: all of an MLP, the end of a CNN."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.shapes: dict[str, Shape] = {row.name: row.shape for row in param_table(spec)}

    def add_dense_stack(self, dtype: torch.dtype) -> None:
        """Make the layers; a CNN does so after its convolutions, so that parameters stand in forward order."""
        for index in range(len(self.spec.hidden_sizes)):
            self.add_module(f"dense_{index}", Dense(self.shapes[f"dense_{index}/kernel"], dtype))
            if self.spec.normalization == "layer":
                self.add_module(f"dense_norm_{index}", LayerNorm(self.shapes[f"dense_norm_{index}/scale"], dtype))
        self.add_module("head", Dense(self.shapes["head/kernel"], dtype))

    def dense_stack(self, x_BF: Tensor, dropping: Dropping | None) -> Tensor:
        """Logits (B, classes) for features (B, F)."""
        for index in range(len(self.spec.hidden_sizes)):
            x_BF = self.get_submodule(f"dense_{index}")(x_BF)
            if self.spec.normalization == "layer":
                x_BF = self.get_submodule(f"dense_norm_{index}")(x_BF)
            x_BF = drop(activate(self.spec.activation, x_BF), index, dropping)
        logits: Tensor = self.get_submodule("head")(x_BF)
        return logits
