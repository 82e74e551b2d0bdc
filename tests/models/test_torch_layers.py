"""Single PyTorch layers against numpy and scipy in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import special
from torch import nn

from dlhpc import draws
from dlhpc.models.torch_layers import WORDS, Convolution, Dense, Dropping, LayerNorm, activate, drop


def loaded(module: nn.Module, **arrays: Any) -> Any:
    module.load_state_dict({name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()})
    return module


def dropping(rate: float, first_row: int = 0) -> Dropping:
    return Dropping(rate, 5, 9, first_row)


@pytest.mark.parametrize("counter", [0, 7, 2**31, 2**32 - 1])
def test_draws_are_numpys_bit_for_bit(counter: int) -> None:
    rows, columns = np.arange(40)[:, None], np.arange(30)[None, :]
    ours = draws.uniform(WORDS, counter, 3, 2, torch.from_numpy(rows), torch.from_numpy(columns))
    np.testing.assert_array_equal(ours.numpy(), draws.uniform(draws.NUMPY, counter, 3, 2, rows, columns))


@pytest.mark.parametrize("law", [draws.normal, draws.gumbel])
def test_normal_and_gumbel_numbers_are_numpys_within_rounding(law: Any) -> None:
    rows, columns = np.arange(40)[:, None], np.arange(30)[None, :]
    counters = (5, 2**32 - 1, draws.PROBES + 1)
    ours = law(WORDS, torch, torch.float64, *counters, torch.from_numpy(rows), torch.from_numpy(columns))
    theirs = law(draws.NUMPY, np, np.float64, *counters, rows, columns)
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-12, atol=1e-14)


def test_gelu_is_the_exact_one() -> None:
    x = np.linspace(-8, 8, 1001)
    np.testing.assert_allclose(activate("gelu", torch.from_numpy(x)), x * special.ndtr(x), rtol=1e-9, atol=1e-15)


def test_silu_and_relu() -> None:
    x = np.linspace(-5, 5, 11, dtype=np.float32)
    np.testing.assert_allclose(activate("silu", torch.from_numpy(x)), x * special.expit(x), rtol=1e-6)
    np.testing.assert_array_equal(activate("relu", torch.from_numpy(x)), np.maximum(x, 0))


def test_layer_norm_keeps_its_digits_where_the_mean_is_large() -> None:
    x = np.random.default_rng(0).normal(1000.0, 50.0, (16, 64)).astype(np.float32)
    scale, bias = np.linspace(0.5, 2, 64), np.linspace(-1, 1, 64)
    wide = x.astype(np.float64)
    expected = (wide - wide.mean(1, keepdims=True)) / np.sqrt(wide.var(1, keepdims=True) + 1e-6) * scale + bias
    norm = loaded(LayerNorm((64,), torch.float32), weight=np.float32(scale), bias=np.float32(bias))
    result = norm(torch.from_numpy(x)).detach().numpy()
    assert np.max(np.abs(result - expected)) < 2e-6 * np.max(np.abs(expected))


def test_layer_norm_of_bfloat16_is_computed_in_float32() -> None:
    x = torch.randn(8, 64, generator=torch.Generator().manual_seed(0)) + 100
    norm = loaded(LayerNorm((64,), torch.float32), weight=np.ones(64, np.float32), bias=np.zeros(64, np.float32))
    narrow = x.to(torch.bfloat16)
    assert norm(narrow).dtype == torch.bfloat16
    torch.testing.assert_close(norm(narrow), norm(narrow.float()).to(torch.bfloat16), rtol=0, atol=0)


def test_dense_multiplies_and_adds_in_the_inputs_type() -> None:
    kernel, bias = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones(3, np.float32)
    dense = loaded(Dense((2, 3), torch.float32), weight=kernel.T, bias=bias)
    x = np.array([[1.0, 2.0]], np.float32)
    np.testing.assert_array_equal(dense(torch.from_numpy(x)).detach(), x @ kernel + bias)
    assert dense(torch.from_numpy(x).to(torch.bfloat16)).dtype == torch.bfloat16


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
    convolution = Convolution(kernel.shape, stride, torch.float64)
    module = loaded(convolution, weight=kernel.transpose(3, 2, 0, 1), bias=np.zeros(4))
    result = module(torch.from_numpy(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    np.testing.assert_allclose(result.detach(), expected, rtol=1e-12, atol=1e-12)


def test_dropout_keeps_the_mean_and_the_share() -> None:
    dropped = drop(torch.ones(400, 50), 0, dropping(0.25)).numpy()
    assert set(np.unique(dropped)) == {0.0, np.float32(1 / 0.75)}
    assert np.mean(dropped == 0) == pytest.approx(0.25, abs=0.01)


def test_dropout_drops_where_numpys_draw_is_below_the_rate() -> None:
    rows, columns = np.arange(6, 16)[:, None], np.arange(20)[None, :]
    below = draws.uniform(draws.NUMPY, 5, 9, 1, rows, columns) < np.float32(0.5)
    np.testing.assert_array_equal(drop(torch.ones(10, 20), 1, dropping(0.5, first_row=6)).numpy() == 0, below)


def test_dropout_depends_on_the_global_row_and_the_layer_alone() -> None:
    x = torch.ones(10, 20)
    whole = drop(x, 1, dropping(0.5))
    assert torch.equal(whole[6:], drop(x[6:], 1, dropping(0.5, first_row=6)))
    assert not torch.equal(whole, drop(x, 2, dropping(0.5)))


def test_no_dropping_and_rate_zero_change_nothing() -> None:
    x = torch.arange(6.0).reshape(2, 3)
    assert torch.equal(drop(x, 0, None), x)
    assert torch.equal(drop(x, 0, dropping(0.0)), x)
