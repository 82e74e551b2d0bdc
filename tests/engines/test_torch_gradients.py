"""What is done to gradients: the same as torch's own clipping, as AGC's definition, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from dlhpc.engines.torch_engine import PlainEngine
from dlhpc.engines.torch_gradients import any_non_finite, clear_non_finite, clipper
from dlhpc.engines.torch_network import build_model
from dlhpc.errors import ConfigError
from dlhpc.optimizers.torch_optimizers import build
from dlhpc.spec.gradients import AdaptiveClipping, GlobalNormClipping, NoClipping
from dlhpc.spec.model import CNNSpec
from dlhpc.spec.optimizer import LionSpec
from dlhpc.weights.layout import layout
from dlhpc.weights.table import param_table

CPU = torch.device("cpu")
SPEC = CNNSpec(input_shape=(5, 4, 2), num_classes=3, channels=(3, 4), hidden_sizes=(6,), normalization="layer")
TABLE = param_table(SPEC)
PLACES = layout("torch", TABLE).places


def engine_with_gradients(dtype: torch.dtype = torch.float64, scale: float = 1.0) -> tuple[PlainEngine, nn.Module]:
    """Random weights and gradients of a CNN; one unit's weights are zero."""
    module = build_model(SPEC, dtype)
    generator = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        parameter.data.normal_(generator=generator)
        parameter.grad = scale * torch.randn(parameter.shape, dtype=dtype, generator=generator)
    module.get_parameter("dense_0.weight").data[2] = 0.0
    return PlainEngine(module, build(module.parameters(), LionSpec()), None), module


def gradients(module: nn.Module) -> dict[str, np.ndarray]:
    return {name: parameter.grad.numpy().copy() for name, parameter in module.named_parameters()}


@pytest.mark.parametrize("bound", [0.01, 1.0, 1e6])
def test_the_global_norm_is_bounded_as_torch_does_it_bit_for_bit(bound: float) -> None:
    (engine, mine), (_, theirs) = engine_with_gradients(torch.float32), engine_with_gradients(torch.float32)
    clip = clipper(GlobalNormClipping(max_norm=bound), TABLE, CPU)
    assert clip is not None
    clip(engine, engine.pieces())
    nn.utils.clip_grad_norm_(theirs.parameters(), bound)
    before = gradients(engine_with_gradients(torch.float32)[1])
    for name, array in gradients(mine).items():
        np.testing.assert_array_equal(array, gradients(theirs)[name])
        assert np.array_equal(array, before[name]) == (bound == 1e6)


def test_adaptive_clipping_is_its_definition() -> None:
    clipping = AdaptiveClipping(factor=0.3, eps=0.01, exempt=("head/*", "conv_1/kernel"))
    engine, module = engine_with_gradients()
    before = gradients(module)
    clip = clipper(clipping, TABLE, CPU)
    assert clip is not None
    clip(engine, engine.pieces())
    clipped = 0
    for row, place in zip(TABLE, PLACES, strict=True):
        weights = place.to_canonical(module.get_parameter(place.name).detach().numpy())
        g, result = (place.to_canonical(each[place.name]) for each in (before, gradients(module)))
        if row.name.startswith("head/") or row.name == "conv_1/kernel":
            np.testing.assert_array_equal(result, g)
            continue
        axes = tuple(range(len(row.shape) - 1)) if len(row.shape) > 1 else (0,)  # `out` is a kernel's last axis
        norms, bounds = (np.sqrt((each**2).sum(axes, keepdims=True)) for each in (g, weights))
        factors = np.minimum(1.0, 0.3 * np.maximum(bounds, 0.01) / norms)
        clipped += int((factors < 1).sum())
        np.testing.assert_allclose(result, g * factors, rtol=1e-12)
    assert clipped > 5


def test_small_gradients_are_left_alone() -> None:
    engine, module = engine_with_gradients(scale=1e-6)
    before = gradients(module)
    clip = clipper(AdaptiveClipping(exempt=()), TABLE, CPU)
    assert clip is not None
    clip(engine, engine.pieces())
    assert all(np.array_equal(array, before[name]) for name, array in gradients(module).items())


def test_nothing_is_clipped_where_nothing_was_asked_for() -> None:
    assert clipper(NoClipping(), TABLE, CPU) is None


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"training\.clipping\.exempt: 'tail/\*' matches no parameter"):
        clipper(AdaptiveClipping(exempt=("tail/*",)), TABLE, CPU)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_one_element_that_is_not_finite_is_found_and_cleared(value: float, size: int) -> None:
    engine, _ = engine_with_gradients()
    arrays = [torch.full((3,), -2.0), torch.full((size,), 3e38)]  # squares overflow, which is no offence
    assert int(any_non_finite(engine, arrays, CPU)) == 0
    arrays[1][size // 2] = value
    assert int(any_non_finite(engine, arrays, CPU)) == 1
    clear_non_finite(arrays)
    assert float(arrays[1][size // 2]) == 0.0
    assert int(any_non_finite(engine, arrays, CPU)) == 0
    assert float(arrays[0].sum()) == -6.0
