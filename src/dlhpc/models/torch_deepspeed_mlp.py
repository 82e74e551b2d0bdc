"""The multi-layer perceptron in PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from dlhpc.models.torch_layers import DenseStack, Dropping
from dlhpc.spec.model import MLPSpec


class TorchDeepSpeedMLP(DenseStack):
    """Flattened image -> hidden dense layers -> logits. Its parameters are the rows of the spec's table."""

    def __init__(self, spec: MLPSpec, dtype: torch.dtype) -> None:
        super().__init__(spec)
        self.add_dense_stack(dtype)

    def forward(self, x_BHWC: Tensor, dropping: Dropping | None = None) -> Tensor:
        """Logits (B, classes) for normalised images (B, H, W, C)."""
        return self.dense_stack(x_BHWC.flatten(1), dropping)
