"""The layers of the Flax models, in Flax NNX and plain jax.numpy: explicit about precision and randomness.

A layer takes its sizes from the parameter table and computes in the dtype of its input; weights are kept in the
precision of the optimizer, cast on the way, and start as zeros, because they are always loaded (a model is only ever
built under `nnx.eval_shape`, which allocates nothing).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, assert_never

import jax
import jax.numpy as jnp
from flax import nnx

from dlhpc import draws
from dlhpc.spec.model import Activation, ModelSpec
from dlhpc.weights.table import param_table

LAYER_NORM_EPS = 1e-6
Array = jax.Array
Shape = tuple[int, ...]
"""Canonical shape of a row of the parameter table."""


class FlaxWords:
    """JAX's uint32 wraps by itself."""

    def word(self, x: Any) -> Array:
        return jnp.uint32(x & draws.MASK32) if isinstance(x, int) else jnp.asarray(x).astype(jnp.uint32)

    def multiply(self, x: Array, constant: int) -> Array:
        return x * jnp.uint32(constant)

    def add(self, x: Array, y: Array) -> Array:
        return x + y

    def unit(self, x: Array) -> Array:
        return (x >> 8).astype(jnp.float32) * jnp.float32(2.0**-24)

    def cast(self, x: Array, dtype: Any) -> Array:
        return x.astype(dtype)


WORDS = FlaxWords()


class Dropping(NamedTuple):
    """What decides which activations are dropped, besides layer, row and column: arrays, so no value recompiles."""

    rate: Array
    seed: Array
    step: Array
    first_row: Array
    """Index in the global batch of the first row that the model is given."""


class Dense(nnx.Module):
    """x @ W + b."""

    def __init__(self, kernel: Shape, dtype: Any) -> None:
        self.kernel = nnx.Param(jnp.zeros(kernel, dtype))
        self.bias = nnx.Param(jnp.zeros(kernel[-1], dtype))

    def __call__(self, x_BI: Array) -> Array:
        kernel, bias = self.kernel[...].astype(x_BI.dtype), self.bias[...].astype(x_BI.dtype)
        return jnp.dot(x_BI, kernel, precision=_precision(x_BI)) + bias


class Convolution(nnx.Module):
    """A convolution with 'SAME' padding: ceil(size / stride) outputs, the odd row and column at the end."""

    def __init__(self, kernel: Shape, stride: int, dtype: Any) -> None:
        self.stride = stride
        self.kernel = nnx.Param(jnp.zeros(kernel, dtype))
        self.bias = nnx.Param(jnp.zeros(kernel[-1], dtype))

    def __call__(self, x_BHWC: Array) -> Array:
        kernel, bias = self.kernel[...].astype(x_BHWC.dtype), self.bias[...].astype(x_BHWC.dtype)
        convolved = jax.lax.conv_general_dilated(
            x_BHWC,
            kernel,
            window_strides=(self.stride, self.stride),
            padding="SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=_precision(x_BHWC),
        )
        return convolved + bias


class LayerNorm(nnx.Module):
    """Layer norm over the last axis (Ba et al. 2016, arXiv:1607.06450), in float32 at least.

    Two passes: the mean is subtracted before squaring, since E[x^2] - E[x]^2 loses its digits where the mean is large.
    """

    def __init__(self, scale: Shape, dtype: Any) -> None:
        self.scale = nnx.Param(jnp.zeros(scale, dtype))
        self.bias = nnx.Param(jnp.zeros(scale, dtype))

    def __call__(self, x: Array) -> Array:
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        centred = wide - wide.mean(axis=-1, keepdims=True)
        variance = jnp.square(centred).mean(axis=-1, keepdims=True)
        normal = centred * jax.lax.rsqrt(variance + LAYER_NORM_EPS)
        return (normal * self.scale[...].astype(wide.dtype) + self.bias[...].astype(wide.dtype)).astype(x.dtype)


def activate(name: Activation, x: Array) -> Array:
    """The non-linearity of a spec; gelu is x Phi(x) by erf (Hendrycks & Gimpel 2016, arXiv:1606.08415)."""
    match name:
        case "relu":
            return jax.nn.relu(x)
        case "gelu":
            wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
            return (0.5 * wide * (1.0 + jax.lax.erf(wide * math.sqrt(0.5)))).astype(x.dtype)
        case "silu":
            return jax.nn.silu(x)
        case _:
            assert_never(name)


def drop(x_BF: Array, layer: int, dropping: Dropping | None) -> Array:
    """Drop activations of hidden dense layer `layer`; survivors grow by 1 / (1 - rate). None keeps all."""
    if dropping is None:
        return x_BF
    rows, columns = (jnp.arange(size, dtype=jnp.uint32) for size in x_BF.shape)
    counters = (dropping.step, layer, (dropping.first_row + rows)[:, None], columns[None, :])
    keep_BF = draws.uniform(WORDS, dropping.seed, *counters) >= dropping.rate.astype(jnp.float32)
    return jnp.where(keep_BF, x_BF / (1.0 - dropping.rate), 0.0).astype(x_BF.dtype)


class DenseStack(nnx.Module):
    """The hidden dense layers and the head: all of an MLP, the end of a CNN."""

    def __init__(self, spec: ModelSpec, dtype: Any) -> None:
        self.spec = spec
        shapes = {row.name: row.shape for row in param_table(spec)}
        for index in range(len(spec.hidden_sizes)):
            setattr(self, f"dense_{index}", Dense(shapes[f"dense_{index}/kernel"], dtype))
            if spec.normalization == "layer":
                setattr(self, f"dense_norm_{index}", LayerNorm(shapes[f"dense_norm_{index}/scale"], dtype))
        self.head = Dense(shapes["head/kernel"], dtype)

    def dense_stack(self, x_BF: Array, dropping: Dropping | None) -> Array:
        """Logits (B, classes) for features (B, F)."""
        for index in range(len(self.spec.hidden_sizes)):
            x_BF = getattr(self, f"dense_{index}")(x_BF)
            if self.spec.normalization == "layer":
                x_BF = getattr(self, f"dense_norm_{index}")(x_BF)
            x_BF = drop(activate(self.spec.activation, x_BF), index, dropping)
        return self.head(x_BF)


def _precision(x: Array) -> jax.lax.Precision:
    """Products in bfloat16 may be fast; float32 means float32, on accelerators too."""
    return jax.lax.Precision.DEFAULT if x.dtype == jnp.bfloat16 else jax.lax.Precision.HIGHEST
