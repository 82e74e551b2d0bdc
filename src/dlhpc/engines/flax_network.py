"""A Flax model as a pure function of canonically named arrays, from pixels to logits; and its loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, assert_never

import jax
import jax.numpy as jnp
from flax import nnx

from dlhpc.models.flax_cnn import FlaxCNN
from dlhpc.models.flax_layers import Dropping
from dlhpc.models.flax_mlp import FlaxMLP
from dlhpc.ports import Preprocessing
from dlhpc.spec.model import CNNSpec, MLPSpec, ModelSpec
from dlhpc.weights.layout import layout
from dlhpc.weights.table import param_table

Params = Mapping[str, jax.Array]
"""Canonical name -> parameter."""
Forward = Callable[[Params, jax.Array, Dropping | None], jax.Array]
"""forward(params, inputs (B, H, W, C) uint8 or 0..1, dropping) -> logits (B, classes) in the master type."""


class Numbers(NamedTuple):
    """Number formats of a network."""

    compute: Any
    """Type of activations and products."""
    master: Any
    """Type of the stored parameters and of the loss."""


def numbers(precision: str) -> Numbers:
    """Number formats of a training precision."""
    compute = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float64": jnp.float64}[precision]
    return Numbers(compute, jnp.float64 if precision == "float64" else jnp.float32)


def build_model(spec: ModelSpec, dtype: Any) -> nnx.Module:
    """The NNX module of a resolved spec, its weights zero."""
    match spec:
        case MLPSpec():
            return FlaxMLP(spec, dtype)
        case CNNSpec():
            return FlaxCNN(spec, dtype)
        case _:
            assert_never(spec)


def forward_function(spec: ModelSpec, preprocessing: Preprocessing, formats: Numbers) -> Forward:
    """Split the module once; what remains carries plain leaves."""
    graph, _ = nnx.split(nnx.eval_shape(lambda: build_model(spec, formats.master)))
    places = layout("flax", param_table(spec)).places
    normalize = Normalize(preprocessing, formats)

    def forward(params: Params, inputs: jax.Array, dropping: Dropping | None) -> jax.Array:
        nested: dict[str, Any] = {}
        for place in places:
            module, leaf = place.name.split("/")
            nested.setdefault(module, {})[leaf] = params[place.canonical]
        logits = nnx.merge(graph, nested)(normalize(inputs), dropping)
        return logits.astype(formats.master)

    return forward


class Normalize:
    """(x / 255 - mean) / std per channel; floating point inputs are already in 0..1. On the device."""

    def __init__(self, preprocessing: Preprocessing, formats: Numbers) -> None:
        self._preprocessing, self._formats = preprocessing, formats

    def __call__(self, inputs: jax.Array) -> jax.Array:
        constants = (self._preprocessing.mean, self._preprocessing.std)
        mean, std = (jnp.array(values, self._formats.master) for values in constants)
        pixels = inputs.astype(self._formats.master)
        if inputs.dtype == jnp.uint8:
            pixels = pixels / 255.0
        return ((pixels - mean) / std).astype(self._formats.compute)


def loss_sum(logits: jax.Array, labels: jax.Array, label_smoothing: float) -> jax.Array:
    """Cross entropy with smoothed targets (Szegedy et al. 2016, arXiv:1512.00567), summed over the rows with a label.

    logits (B, classes), labels (B,) with -1 for padding.
    """
    logp = jax.nn.log_softmax(logits)
    picked = jnp.take_along_axis(logp, jnp.maximum(labels, 0)[:, None], axis=1)[:, 0]
    losses = -((1.0 - label_smoothing) * picked + label_smoothing * logp.mean(axis=1))
    return jnp.where(labels >= 0, losses, 0.0).sum()


def correct_count(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Rows whose greatest logit is the label's, int32; padding never counts."""
    return (logits.argmax(axis=1) == labels).sum(dtype=jnp.int32)
