"""The translation of JAX's programs: what it knows it computes, what it does not know it names."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from jax import export

from dlhpc.engines.flax_onnx import onnx_bytes
from dlhpc.engines.onnx_runtime import OnnxPredictor
from dlhpc.errors import DlhpcError

(BATCH,) = export.symbolic_shape("batch")
IMAGES = jax.ShapeDtypeStruct((BATCH, 2, 3, 1), jnp.uint8)


def flat(images: jax.Array) -> jax.Array:
    return images.reshape(images.shape[0], -1).astype(jnp.float32)


def test_constants_and_literals_are_kept_in_float32() -> None:
    matrix = np.linspace(-1, 1, 12, dtype=np.float32).reshape(6, 2)

    def function(images: jax.Array) -> jax.Array:
        return jnp.maximum(flat(images) @ matrix, 0.0) / 3.0

    pixels = np.arange(30, dtype=np.uint8).reshape(5, 2, 3, 1)
    content = onnx_bytes(function, IMAGES, 2)
    np.testing.assert_allclose(
        OnnxPredictor(content)(pixels), np.maximum(pixels.reshape(5, 6) @ matrix, 0) / 3, rtol=1e-6
    )
    model = onnx.load_from_string(content)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert (model.producer_name, model.opset_import[0].version) == ("dlhpc (jax)", 20)


def nchw_convolution(images: jax.Array) -> jax.Array:
    return jax.lax.conv(flat(images).reshape(-1, 1, 2, 3), jnp.ones((1, 1, 1, 1)), (1, 1), "SAME")


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("sort", lambda images: jnp.sort(flat(images))),
        ("dot_general", lambda images: jnp.einsum("bi,bi->b", flat(images), flat(images))[:, None]),
        ("broadcast_in_dim", lambda images: jnp.broadcast_to(flat(images)[:, None], (images.shape[0], 2, 6))[:, 0]),
        ("conv_general_dilated", nchw_convolution),
    ],
)
def test_what_has_no_translation_is_named(name: str, function: Any) -> None:
    with pytest.raises(DlhpcError, match=f"no translation of .*{name}"):
        onnx_bytes(function, IMAGES, 6)
