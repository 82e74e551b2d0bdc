"""The PyTorch network's preprocessing, loss and counts against numpy and scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import special

from dlhpc.engines.torch_network import (
    Normalize,
    Numbers,
    build_model,
    correct_count,
    load_weights,
    local_device,
    loss_sum,
    numbers,
)
from dlhpc.ports import Preprocessing
from dlhpc.spec.model import CNNSpec, MLPSpec
from dlhpc.weights.init import initial_weights
from dlhpc.weights.table import param_table

CPU = torch.device("cpu")


def test_number_formats() -> None:
    assert numbers("float32") == Numbers(torch.float32, torch.float32)
    assert numbers("bfloat16") == Numbers(torch.bfloat16, torch.float32)
    assert numbers("float64") == Numbers(torch.float64, torch.float64)


def test_bytes_are_scaled_and_floats_are_not() -> None:
    normalize = Normalize(Preprocessing((0.5, 0.25), (0.5, 2.0)), numbers("float32"), CPU)
    pixels = np.array([[0, 255], [51, 102]], np.uint8)
    expected = (pixels / 255 - [0.5, 0.25]) / [0.5, 2.0]
    np.testing.assert_allclose(normalize(torch.from_numpy(pixels)), expected, rtol=1e-6, atol=1e-7)
    floats = torch.from_numpy(np.float32(pixels / 255))
    np.testing.assert_allclose(normalize(floats), expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(floats, np.float32(pixels / 255))
    narrow = Normalize(Preprocessing((0.5,), (0.5,)), numbers("bfloat16"), CPU)
    assert narrow(torch.from_numpy(pixels)).dtype == torch.bfloat16


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_loss_is_cross_entropy_with_smoothed_targets_over_real_rows(smoothing: float) -> None:
    draw = np.random.default_rng(0)
    logits, labels = draw.normal(0, 5, (6, 4)), np.array([0, 3, 1, 2, -1, -1])
    targets = np.eye(4)[np.maximum(labels, 0)] * (1 - smoothing) + smoothing / 4
    expected = -(targets * special.log_softmax(logits, axis=1)).sum(axis=1)[labels >= 0].sum()
    loss = loss_sum(torch.from_numpy(logits), torch.from_numpy(labels), smoothing)
    assert float(loss) == pytest.approx(expected, rel=1e-12)


def test_padding_weighs_nothing_whatever_its_logits_are() -> None:
    logits = torch.tensor([[1.0, 2.0], [torch.inf, 0.0]], requires_grad=True)
    labels = torch.tensor([1, -1])
    loss = loss_sum(logits, labels, 0.1)
    assert loss.item() == pytest.approx(loss_sum(logits[:1], labels[:1], 0.1).item())
    assert int(correct_count(logits, labels)) == 1


def test_rows_of_padding_alone_give_no_loss_and_no_gradient() -> None:
    """A process may hold nothing but padding in the last batch of an epoch."""
    logits = torch.ones(2, 3, requires_grad=True)
    loss = loss_sum(logits, torch.tensor([-1, -1]), 0.1)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.item() == 0.0
    assert not gradient.any()


def test_weights_are_copied_in_the_models_precision() -> None:
    spec = CNNSpec(num_classes=3, input_shape=(4, 5, 1), channels=(2, 3), hidden_sizes=())
    weights = initial_weights(param_table(spec), 0, np.float64)
    model = build_model(spec, torch.float32)
    load_weights(model, spec, weights)
    kernel = model.get_parameter("conv_0.weight").detach().clone()
    for array in weights.values():
        array[...] = 0
    assert kernel.dtype == torch.float32
    assert torch.equal(model.get_parameter("conv_0.weight"), kernel)


def test_an_unresolved_model_cannot_be_built() -> None:
    with pytest.raises(ValueError, match="must be resolved"):
        build_model(MLPSpec(), torch.float32)


def test_the_launchers_rank_picks_the_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    assert local_device() == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert local_device() == torch.device("cuda", 3)
    assert not torch.backends.cudnn.allow_tf32
