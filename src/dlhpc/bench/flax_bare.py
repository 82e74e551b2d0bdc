"""The loop that a careful person writes by hand in JAX: one jitted, donated step with optax.adamw, and nothing else."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import optax

Pair = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]


def bare_loop(widths: Sequence[int], learning_rate: float) -> Callable[[Sequence[Pair]], float]:
    """A function that trains a GELU MLP of these widths over the pairs and returns the last loss.

    `widths` runs from the flattened input over the hidden layers to the classes; inputs are uint8 (b, ...).
    """
    generator = np.random.default_rng(0)
    params: Any = [
        (jnp.asarray(generator.normal(0, (2 / i) ** 0.5, (i, o)), jnp.float32), jnp.zeros(o))
        for i, o in itertools.pairwise(widths)
    ]
    optimizer = optax.adamw(learning_rate, weight_decay=0.01)
    opt_state = optimizer.init(params)

    def loss_of(params: Any, inputs: jax.Array, labels: jax.Array) -> jax.Array:
        x = (inputs.reshape(inputs.shape[0], -1).astype(jnp.float32) / 255 - 0.5) / 0.5
        for kernel, bias in params[:-1]:
            x = jax.nn.gelu(x @ kernel + bias, approximate=False)
        logits = x @ params[-1][0] + params[-1][1]
        losses: jax.Array = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean()

    @jax.jit(donate_argnums=(0, 1))
    def step(params: Any, opt_state: Any, inputs: jax.Array, labels: jax.Array) -> tuple[Any, Any, jax.Array]:
        loss, grads = jax.value_and_grad(loss_of)(params, inputs, labels)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    state = [params, opt_state]

    def run(pairs: Sequence[Pair]) -> float:
        loss = jnp.zeros(())
        for inputs, labels in pairs:
            *state[:], loss = step(*state, jnp.asarray(inputs), jnp.asarray(labels))
        return float(loss)

    return run
