"""The multi-layer perceptron in Flax NNX."""

from __future__ import annotations

from dlhpc.models.flax_layers import Array, DenseStack, Dropping


class FlaxMLP(DenseStack):
    """Flattened image -> hidden dense layers -> logits. Its parameters are the rows of the spec's table."""

    def __call__(self, x_BHWC: Array, dropping: Dropping | None = None) -> Array:
        """Logits (B, classes) for normalised images (B, H, W, C)."""
        return self.dense_stack(x_BHWC.reshape(x_BHWC.shape[0], -1), dropping)
