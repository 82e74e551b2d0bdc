"""A batch is worked through in parts of equal size, one after another, and what comes of them is added up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dlhpc.engines.flax_network import Params


class Part(NamedTuple):
    """Rows that are worked through at once: inputs [b, H, W, C], labels [b], the first row's number."""

    inputs: jax.Array
    labels: jax.Array
    first_row: jax.Array


def sum_over_parts(function: Callable[[Params, Part], Any], params: Params, whole: Part, number: int) -> Any:
    """The sum of function(params, part), a pytree of arrays, over so many parts of equal size."""
    if number == 1:
        return function(params, whole)
    inputs, labels = (array.reshape(number, -1, *array.shape[1:]) for array in (whole.inputs, whole.labels))
    first_rows = whole.first_row + labels.shape[1] * jnp.arange(number, dtype=jnp.uint32)
    parts = Part(inputs, labels, first_rows)

    def add(total: Any, part: Part) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, function(params, part)), None

    one = jax.eval_shape(function, params, jax.tree.map(lambda array: array[0], parts))
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), one)
    return jax.lax.scan(add, nothing, parts)[0]
