"""The convolutional network in PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from dlhpc.models.torch_layers import Convolution, DenseStack, Dropping, LayerNorm, activate
from dlhpc.spec.model import CNNSpec
from dlhpc.weights.table import conv_strides


class TorchDeepSpeedCNN(DenseStack):
    """Convolutions, then flatten over height, width, channels, then the dense layers."""

    def __init__(self, spec: CNNSpec, dtype: torch.dtype) -> None:
        super().__init__(spec)
        self.num_convolutions = len(spec.channels)
        for index, stride in enumerate(conv_strides(spec)):
            self.add_module(f"conv_{index}", Convolution(self.shapes[f"conv_{index}/kernel"], stride, dtype))
            if spec.normalization == "layer":
                self.add_module(f"conv_norm_{index}", LayerNorm(self.shapes[f"conv_norm_{index}/scale"], dtype))
        self.add_dense_stack(dtype)

    def forward(self, x_BHWC: Tensor, dropping: Dropping | None = None) -> Tensor:
        """Logits (B, classes) for normalised images (B, H, W, C)."""
        x_BCHW = x_BHWC.permute(0, 3, 1, 2)  # a view: NHWC memory IS channels_last
        for index in range(self.num_convolutions):
            x_BCHW = self.get_submodule(f"conv_{index}")(x_BCHW)
            if self.spec.normalization == "layer":
                x_BHWC = self.get_submodule(f"conv_norm_{index}")(x_BCHW.permute(0, 2, 3, 1))
                x_BCHW = x_BHWC.permute(0, 3, 1, 2)
            x_BCHW = activate(self.spec.activation, x_BCHW)
        return self.dense_stack(x_BCHW.permute(0, 2, 3, 1).flatten(1), dropping)
