"""Estimates of the Hessian's diagonal for optimizers that take them (`update(..., hessian=...)`), usable alone.

    noise = jax.random.gumbel(key, (batch_size, classes))
    hessian = gauss_newton_bartlett(lambda params: model(params, inputs), params, noise)
    updates, state = tx.update(grads, state, params, lr=1e-3, hessian=hessian)

On arrays that are sharded over a mesh, under jit, they see the whole batch and average over all of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Tree = Any
"""A pytree of arrays."""


def hutchinson(loss: Callable[[Tree], jax.Array], params: Tree, probes: Tree) -> Tree:
    """u * (Hessian u), like the parameters (Hutchinson 1989; Liu et al. 2023, arXiv:2305.14342, algorithm 1).

    `loss` gives a scalar; `probes` are the vectors u, like the parameters: standard normal numbers, such as
    `optax.tree.random_like(key, params)`. Estimates of a sum of losses are the sum of their estimates with the same
    probes.
    """
    _, products = jax.jvp(jax.grad(loss), (params,), (probes,))
    return jax.tree.map(jnp.multiply, probes, products)


def gauss_newton_bartlett(
    logits: Callable[[Tree], jax.Array], params: Tree, noise: jax.Array, *, real: jax.Array | None = None
) -> Tree:
    """B * g * g, like the parameters, for the gradient g of the mean cross entropy on labels sampled from the model
    (Liu et al. 2023, arXiv:2305.14342, algorithm 2).

    `logits` gives (B, classes); `noise`, of the same shape, is what `sample_labels` takes. `real` (B,) tells padding
    (False) apart, which then does not count.
    """
    counted = jnp.ones(len(noise), bool) if real is None else real
    rows = counted.sum()

    def loss(params: Tree) -> jax.Array:
        given = logits(params)
        labels = sample_labels(given, noise)
        picked = jnp.take_along_axis(jax.nn.log_softmax(given), labels[:, None], axis=1)[:, 0]
        return -jnp.where(counted, picked, 0.0).sum() / rows

    return jax.tree.map(lambda gradient: squared_gradient(gradient, rows), jax.grad(loss)(params))


def squared_gradient(gradient: jax.Array, rows: jax.Array) -> jax.Array:
    """The Gauss-Newton-Bartlett estimate from the gradient of a mean over `rows` rows with sampled labels."""
    return rows * jnp.square(gradient)


def sample_labels(logits: jax.Array, noise: jax.Array) -> jax.Array:
    """One class per row, drawn from softmax(logits): the greatest logit plus Gumbel noise (Gumbel 1954).

    logits (B, classes); `noise` of that shape, such as `jax.random.gumbel(key, shape)`. Gives integers (B,).
    """
    return jnp.argmax(jax.lax.stop_gradient(logits) + noise, axis=-1)
