"""The convolutional network in Flax NNX."""

from __future__ import annotations

import math

import jax
from flax import nnx

from dlhpc.models.flax_layers import DenseNetwork, Drop, Numbers, layer_norm, no_dropout
from dlhpc.spec.model import CNNSpec, InputShape
from dlhpc.weights.table import conv_output_shape, conv_strides


class FlaxCNN(DenseNetwork):
    """Convolutions `conv_i` (+ `conv_norm_i`) with 'SAME' padding, flatten, hidden dense layers, classifier."""

    def __init__(
        self, spec: CNNSpec, input_shape: InputShape, num_classes: int, numbers: Numbers, *, rngs: nnx.Rngs
    ) -> None:
        super().__init__(spec, math.prod(conv_output_shape(spec, input_shape)), num_classes, numbers, rngs=rngs)
        self.convolutions = len(spec.channels)
        fan_in = input_shape[2]
        for index, (out, stride) in enumerate(zip(spec.channels, conv_strides(spec), strict=True)):
            convolution = nnx.Conv(
                fan_in,
                out,
                spec.kernel_size,
                (stride, stride),
                padding="SAME",
                dtype=numbers.compute,
                param_dtype=numbers.master,
                precision=numbers.precision,
                rngs=rngs,
            )
            setattr(self, f"conv_{index}", convolution)
            if self.normalized:
                setattr(self, f"conv_norm_{index}", layer_norm(out, numbers, rngs))
            fan_in = out

    def __call__(self, x_BHWC: jax.Array, drop: Drop = no_dropout) -> jax.Array:
        """Logits (B, classes) of normalised images."""
        for index in range(self.convolutions):
            x_BHWC = getattr(self, f"conv_{index}")(x_BHWC)
            if self.normalized:
                x_BHWC = getattr(self, f"conv_norm_{index}")(x_BHWC)
            x_BHWC = self.activate(x_BHWC)
        return self.classify(x_BHWC.reshape(x_BHWC.shape[0], -1), drop)
