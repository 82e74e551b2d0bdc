"""The convolutional network in Flax NNX."""

from __future__ import annotations

from typing import Any

from dlhpc.models.flax_layers import Array, Convolution, DenseStack, Dropping, LayerNorm, activate
from dlhpc.spec.model import CNNSpec
from dlhpc.weights.table import conv_strides, param_table


class FlaxCNN(DenseStack):
    """Convolutions, then flatten over height, width, channels, then the dense layers."""

    def __init__(self, spec: CNNSpec, dtype: Any) -> None:
        super().__init__(spec, dtype)
        self.num_convolutions = len(spec.channels)
        shapes = {row.name: row.shape for row in param_table(spec)}
        for index, stride in enumerate(conv_strides(spec)):
            setattr(self, f"conv_{index}", Convolution(shapes[f"conv_{index}/kernel"], stride, dtype))
            if spec.normalization == "layer":
                setattr(self, f"conv_norm_{index}", LayerNorm(shapes[f"conv_norm_{index}/scale"], dtype))

    def __call__(self, x_BHWC: Array, dropping: Dropping | None = None) -> Array:
        """Logits (B, classes) for normalised images (B, H, W, C)."""
        for index in range(self.num_convolutions):
            x_BHWC = getattr(self, f"conv_{index}")(x_BHWC)
            if self.spec.normalization == "layer":
                x_BHWC = getattr(self, f"conv_norm_{index}")(x_BHWC)
            x_BHWC = activate(self.spec.activation, x_BHWC)
        return self.dense_stack(x_BHWC.reshape(x_BHWC.shape[0], -1), dropping)
