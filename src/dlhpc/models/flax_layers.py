"""What the Flax networks are made of: activations, normalisation, reproducible dropout, the dense stack."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from dlhpc import draws
from dlhpc.spec.model import Activation, ModelSpec

Array = jax.Array
Drop = Callable[[int, Array], Array]
"""Dropout after hidden dense layer i: `drop(i, x)`."""

LAYER_NORM_EPSILON = 1e-6


class Numbers(NamedTuple):
    """Number formats of a network."""

    compute: Any
    """Type of activations and products."""
    master: Any
    """Type of the stored parameters."""

    @property
    def precision(self) -> jax.lax.Precision:
        """Products in bfloat16 may be fast; float32 means float32, on accelerators too."""
        return jax.lax.Precision.DEFAULT if self.compute == jnp.bfloat16 else jax.lax.Precision.HIGHEST


class JaxWords:
    """The arithmetic of `dlhpc.draws` in JAX, whose uint32 wraps by itself."""

    def word(self, x: Any) -> Array:
        return jnp.uint32(x & draws.MASK32) if isinstance(x, int) else jnp.asarray(x).astype(jnp.uint32)

    def multiply(self, x: Array, constant: int) -> Array:
        return x * jnp.uint32(constant)

    def add(self, x: Array, y: Array) -> Array:
        return x + y

    def unit(self, x: Array) -> Array:
        return (x >> 8).astype(jnp.float32) * jnp.float32(2.0**-24)


JAX = JaxWords()


def dropout(rate: Array, seed: Array, step: Array, rows: Array) -> Drop:
    """Dropout whose mask is a function of (seed, step, layer, global row, column) alone.

    All arguments are arrays, so that other values never recompile; `rows` (b,) are the rows' global numbers.
    """

    def drop(layer: int, x: Array) -> Array:
        columns = jnp.arange(x.shape[1], dtype=jnp.uint32)
        keep = draws.uniform(JAX, seed, step, layer, rows[:, None], columns[None, :]) >= rate
        return jnp.where(keep, x / (1.0 - rate), 0.0).astype(x.dtype)

    return drop


def no_dropout(layer: int, x: Array) -> Array:
    """The identity, for evaluation and prediction."""
    del layer
    return x


def activation(name: Activation) -> Callable[[Array], Array]:
    """The non-linearity of this name."""
    functions: dict[Activation, Callable[[Array], Array]] = {"relu": jax.nn.relu, "gelu": _gelu, "silu": jax.nn.silu}
    return functions[name]


def _gelu(x: Array) -> Array:
    """x Phi(x) by erf (Hendrycks & Gimpel 2016, arXiv:1606.08415), at least in float32."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return (0.5 * wide * (1.0 + jax.lax.erf(wide * math.sqrt(0.5)))).astype(x.dtype)


def layer_norm(features: int, numbers: Numbers, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """Layer normalisation over the last axis (Ba et al. 2016, arXiv:1607.06450); two passes, at least in float32."""
    return nnx.LayerNorm(
        features,
        epsilon=LAYER_NORM_EPSILON,
        dtype=numbers.compute,
        param_dtype=numbers.master,
        use_fast_variance=False,
        rngs=rngs,
    )


class DenseNetwork(nnx.Module):
    """Base of both networks: hidden dense layers `dense_i` (+ `dense_norm_i`), then the classifier `head`."""

    def __init__(self, spec: ModelSpec, fan_in: int, num_classes: int, numbers: Numbers, *, rngs: nnx.Rngs) -> None:
        self.hidden_layers = len(spec.hidden_sizes)
        self.normalized = spec.normalization == "layer"
        self.activate = activation(spec.activation)
        for index, out in enumerate(spec.hidden_sizes):
            setattr(self, f"dense_{index}", _dense(fan_in, out, numbers, rngs))
            if self.normalized:
                setattr(self, f"dense_norm_{index}", layer_norm(out, numbers, rngs))
            fan_in = out
        self.head = _dense(fan_in, num_classes, numbers, rngs)

    def classify(self, x_BD: Array, drop: Drop) -> Array:
        """Logits (B, classes) of flat features (B, D)."""
        for index in range(self.hidden_layers):
            x_BD = getattr(self, f"dense_{index}")(x_BD)
            if self.normalized:
                x_BD = getattr(self, f"dense_norm_{index}")(x_BD)
            x_BD = drop(index, self.activate(x_BD))
        logits: Array = self.head(x_BD)
        return logits


def _dense(fan_in: int, out: int, numbers: Numbers, rngs: nnx.Rngs) -> nnx.Linear:
    return nnx.Linear(
        fan_in, out, dtype=numbers.compute, param_dtype=numbers.master, precision=numbers.precision, rngs=rngs
    )
