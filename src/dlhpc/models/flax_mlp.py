"""The multi-layer perceptron in Flax NNX."""

from __future__ import annotations

import math

import jax
from flax import nnx

from dlhpc.models.flax_layers import DenseNetwork, Drop, Numbers, no_dropout
from dlhpc.spec.model import InputShape, MLPSpec


class FlaxMLP(DenseNetwork):
    """Flatten, hidden dense layers, classifier."""

    def __init__(
        self, spec: MLPSpec, input_shape: InputShape, num_classes: int, numbers: Numbers, *, rngs: nnx.Rngs
    ) -> None:
        super().__init__(spec, math.prod(input_shape), num_classes, numbers, rngs=rngs)

    def __call__(self, x_BHWC: jax.Array, drop: Drop = no_dropout) -> jax.Array:
        """Logits (B, classes) of normalised images."""
        return self.classify(x_BHWC.reshape(x_BHWC.shape[0], -1), drop)
