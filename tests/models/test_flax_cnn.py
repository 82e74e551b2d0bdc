"""The Flax CNN: its parameters are the table's (its numbers are compared with torch's in tests/twins)."""

from __future__ import annotations

import jax.numpy as jnp
import pytest
from flax import nnx

from dlhpc.models.flax_cnn import FlaxCNN
from dlhpc.spec.model import CNNSpec
from dlhpc.weights.layout import layout
from dlhpc.weights.table import conv_output_shape, param_table


@pytest.mark.parametrize("normalization", ["none", "layer"])
@pytest.mark.parametrize(("channels", "strides"), [((3,), (1,)), ((3, 4), (2,)), ((3, 4, 5), (1, 2, 3))])
def test_parameters_are_the_table(channels: tuple[int, ...], strides: tuple[int, ...], normalization: str) -> None:
    spec = CNNSpec.model_validate(
        {
            "num_classes": 3,
            "input_shape": (7, 5, 2),
            "channels": channels,
            "strides": strides,
            "kernel_size": (3, 2),
            "hidden_sizes": (6,),
            "normalization": normalization,
        }
    )
    table = param_table(spec)
    state = nnx.state(nnx.eval_shape(lambda: FlaxCNN(spec, jnp.float32)))
    shapes = {"/".join(map(str, path)): leaf.shape for path, leaf in nnx.to_flat_state(state)}
    rows = {row.name: row.shape for row in table}
    assert shapes == {
        place.name: place.framework_shape(rows[place.canonical]) for place in layout("flax", table).places
    }


def test_strides_shrink_the_image_as_the_table_says() -> None:
    spec = CNNSpec(num_classes=3, input_shape=(7, 5, 2), channels=(3, 4), strides=(2, 3), hidden_sizes=())
    height, width, channels = conv_output_shape(spec, (7, 5, 2))
    assert (height, width, channels) == (2, 1, 4)
    assert FlaxCNN(spec, jnp.float32)(jnp.zeros((2, 7, 5, 2))).shape == (2, 3)
