"""The Flax predictor: canonical weights in, class probabilities out."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from dlhpc.engines.flax_network import forward_function, numbers
from dlhpc.engines.inputs import check_inputs, padded_parts
from dlhpc.ports import NamedArrays, Preprocessing
from dlhpc.spec.model import ModelSpec
from dlhpc.spec.precision import ComputePrecision
from dlhpc.weights.layout import layout
from dlhpc.weights.table import narrow_rows, param_table
from dlhpc.weights.verify import verify_weights


class FlaxPredictor:
    """Answers from any number of threads; compiles once per power-of-two batch size and input type, for all weights
    of a model. In bfloat16 weights are kept and activations computed in that, norms and probabilities in float32."""

    def __init__(
        self,
        model: ModelSpec,
        weights: NamedArrays,
        preprocessing: Preprocessing,
        precision: ComputePrecision = "float32",
    ) -> None:
        table = param_table(model)
        verify_weights(table, weights, "the weights")
        # A model without these has no table.
        assert model.input_shape is not None
        assert model.num_classes is not None
        self._input_shape, self._classes = model.input_shape, model.num_classes
        leaves = layout("flax", table).to_framework(weights)
        narrow, compute = narrow_rows(table), numbers(precision).compute
        self._params = {
            name: jnp.array(leaf, compute if name in narrow else jnp.float32, copy=True)
            for name, leaf in leaves.items()
        }
        self._probabilities = _compiled(model, preprocessing, precision)

    def __call__(self, inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Class probabilities (N, classes) for inputs (N, H, W, C) uint8, or floats in 0..1; DataError for others."""
        inputs = check_inputs(inputs, self._input_shape)
        # Dispatch is asynchronous: all parts are on their way before the first is waited for.
        answers = [(self._probabilities(self._params, part), rows) for part, rows in padded_parts(inputs)]
        probabilities = np.empty((len(inputs), self._classes), np.float32)
        start = 0
        for answer, rows in answers:
            probabilities[start : start + rows] = np.asarray(answer)[:rows]
            start += rows
        return probabilities


@lru_cache(maxsize=32)
def _compiled(model: ModelSpec, preprocessing: Preprocessing, precision: ComputePrecision) -> Callable[..., jax.Array]:
    """probabilities(params, inputs): the same function for every version of a model, so that a new one starts warm."""
    forward = forward_function(model, preprocessing, numbers(precision))
    return jax.jit(lambda params, inputs: jax.nn.softmax(forward(params, inputs, None)))
