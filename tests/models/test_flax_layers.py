"""Single Flax layers against numpy and scipy in float64."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import special

from dlhpc import draws
from dlhpc.models.flax_layers import WORDS, Convolution, Dense, Dropping, LayerNorm, activate, drop


def loaded(module: nnx.Module, **arrays: Any) -> Any:
    graph, _ = nnx.split(module)
    return nnx.merge(graph, arrays)


def dropping(rate: float, first_row: int = 0) -> Dropping:
    return Dropping(jnp.float32(rate), jnp.uint32(5), jnp.uint32(9), jnp.uint32(first_row))


@pytest.mark.parametrize("counter", [0, 7, 2**31, 2**32 - 1])
def test_draws_are_numpys_bit_for_bit(counter: int) -> None:
    rows, columns = np.arange(40)[:, None], np.arange(30)[None, :]
    ours = draws.uniform(WORDS, counter, jnp.uint32(3), 2, jnp.asarray(rows), jnp.asarray(columns))
    np.testing.assert_array_equal(np.asarray(ours), draws.uniform(draws.NUMPY, counter, 3, 2, rows, columns))


@pytest.mark.parametrize("law", [draws.normal, draws.gumbel])
def test_normal_and_gumbel_numbers_are_numpys_within_rounding(law: Any) -> None:
    rows, columns = np.arange(40)[:, None], np.arange(30)[None, :]
    with jax.enable_x64(True):
        ours = jax.jit(lambda step: law(WORDS, jnp, jnp.float64, 5, step, draws.PROBES + 1, rows, columns))(2**32 - 1)
    theirs = law(draws.NUMPY, np, np.float64, 5, 2**32 - 1, draws.PROBES + 1, rows, columns)
    np.testing.assert_allclose(np.asarray(ours), theirs, rtol=1e-12, atol=1e-14)


def test_gelu_is_the_exact_one() -> None:
    x = np.linspace(-8, 8, 1001)
    with jax.enable_x64(True):
        np.testing.assert_allclose(activate("gelu", jnp.asarray(x)), x * special.ndtr(x), rtol=1e-9, atol=1e-15)


def test_gelu_in_bfloat16_is_computed_in_float32() -> None:
    x = jnp.linspace(-4, 4, 101).astype(jnp.bfloat16)
    wide = activate("gelu", x.astype(jnp.float32)).astype(jnp.bfloat16)
    assert activate("gelu", x).dtype == jnp.bfloat16
    np.testing.assert_array_equal(activate("gelu", x), wide)


def test_silu_and_relu() -> None:
    x = np.linspace(-5, 5, 11, dtype=np.float32)
    np.testing.assert_allclose(activate("silu", jnp.asarray(x)), x * special.expit(x), rtol=1e-6)
    np.testing.assert_array_equal(activate("relu", jnp.asarray(x)), np.maximum(x, 0))


def test_layer_norm_keeps_its_digits_where_the_mean_is_large() -> None:
    x = np.random.default_rng(0).normal(1000.0, 50.0, (16, 64)).astype(np.float32)
    scale, bias = np.linspace(0.5, 2, 64), np.linspace(-1, 1, 64)
    wide = x.astype(np.float64)
    expected = (wide - wide.mean(1, keepdims=True)) / np.sqrt(wide.var(1, keepdims=True) + 1e-6) * scale + bias
    norm = loaded(LayerNorm((64,), jnp.float32), scale=jnp.float32(scale), bias=jnp.float32(bias))
    assert np.max(np.abs(np.asarray(norm(jnp.asarray(x))) - expected)) < 2e-6 * np.max(np.abs(expected))


def test_dense_multiplies_and_adds_in_the_inputs_type() -> None:
    kernel, bias = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones(3, np.float32)
    dense = loaded(Dense((2, 3), jnp.float32), kernel=jnp.asarray(kernel), bias=jnp.asarray(bias))
    x = np.array([[1.0, 2.0]], np.float32)
    np.testing.assert_array_equal(dense(jnp.asarray(x)), x @ kernel + bias)
    assert dense(jnp.asarray(x, jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel_size", [(3, 3), (2, 4), (5, 1)])
def test_convolution_is_a_padded_sum(stride: int, kernel_size: tuple[int, int]) -> None:
    """By loops over the definition of 'SAME': ceil(size / stride) outputs, the smaller half of the padding first."""
    draw = np.random.default_rng(0)
    x, kernel = draw.standard_normal((2, 7, 6, 3)), draw.standard_normal((*kernel_size, 3, 4))
    outs = [-(-size // stride) for size in x.shape[1:3]]
    pads = [max((out - 1) * stride + k - size, 0) for out, k, size in zip(outs, kernel_size, x.shape[1:3], strict=True)]
    padded = np.pad(x, [(0, 0), *((pad // 2, pad - pad // 2) for pad in pads), (0, 0)])
    expected = np.zeros((2, *outs, 4))
    for i in range(outs[0]):
        for j in range(outs[1]):
            window = padded[:, i * stride : i * stride + kernel_size[0], j * stride : j * stride + kernel_size[1]]
            expected[:, i, j] = np.einsum("bhwi,hwio->bo", window, kernel)
    with jax.enable_x64(True):
        convolution = Convolution(kernel.shape, stride, jnp.float64)
        result = loaded(convolution, kernel=jnp.asarray(kernel), bias=jnp.zeros(4))(jnp.asarray(x))
        np.testing.assert_allclose(result, expected, rtol=1e-12, atol=1e-12)


def test_dropout_keeps_the_mean_and_the_share() -> None:
    x = jnp.ones((400, 50))
    dropped = np.asarray(drop(x, 0, dropping(0.25)))
    assert set(np.unique(dropped)) == {0.0, np.float32(1 / 0.75)}
    assert np.mean(dropped == 0) == pytest.approx(0.25, abs=0.01)


def test_dropout_depends_on_the_global_row_and_the_layer_alone() -> None:
    x = jnp.ones((10, 20))
    whole = np.asarray(drop(x, 1, dropping(0.5)))
    np.testing.assert_array_equal(whole[6:], drop(x[6:], 1, dropping(0.5, first_row=6)))
    assert not np.array_equal(whole, drop(x, 2, dropping(0.5)))


def test_no_dropping_and_rate_zero_change_nothing() -> None:
    x = jnp.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(drop(x, 0, None), x)
    np.testing.assert_array_equal(drop(x, 0, dropping(0.0)), x)
