"""Hessian estimates alone: each is its definition, on a net whose whole Hessian is computed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from dlhpc.optimizers.torch_estimators import (
    gauss_newton_bartlett,
    hutchinson,
    sample_labels,
    squared_gradient,
)
from dlhpc.optimizers.torch_optimizers import build
from dlhpc.spec.optimizer import SophiaSpec

SHAPES = ((4, 3), (3,), (3, 5))
INPUTS = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def parameters() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_() for shape in SHAPES]


def net(parameters: list[Tensor]) -> Tensor:
    """Logits (6, 5) of a small net on fixed inputs."""
    w, b, v = parameters
    return torch.tanh(INPUTS @ w + b) @ v


def loss(parameters: list[Tensor]) -> Tensor:
    return functional.cross_entropy(net(parameters), torch.arange(6) % 5)


def whole_hessian(function: Callable[[list[Tensor]], Tensor], parameters: list[Tensor]) -> Tensor:
    sizes = [parameter.numel() for parameter in parameters]

    def of_vector(vector: Tensor) -> Tensor:
        return function([cut.view(shape) for cut, shape in zip(vector.split(sizes), SHAPES, strict=True)])

    return torch.func.hessian(of_vector)(flat(parameters).detach())


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def test_hutchinson_is_u_times_the_hessians_product_with_u(parameters: list[Tensor]) -> None:
    generator = torch.Generator().manual_seed(3)
    probes = [torch.randn(shape, dtype=torch.float64, generator=generator) for shape in SHAPES]
    estimates = hutchinson(loss(parameters), parameters, probes)
    u = flat(probes)
    torch.testing.assert_close(flat(estimates), u * (whole_hessian(loss, parameters) @ u), rtol=1e-10, atol=1e-12)
    assert all(parameter.grad is None for parameter in parameters)


def test_hutchinson_gives_the_diagonal_on_average(parameters: list[Tensor]) -> None:
    torch.manual_seed(4)
    number = 1000
    mean = sum(flat(hutchinson(loss(parameters), parameters)) for _ in range(number)) / number
    hessian = whole_hessian(loss, parameters)
    error = hessian.square().sum(1).mul(2).div(number).sqrt()  # an upper bound of one standard deviation
    assert ((mean - hessian.diagonal()).abs() < 5 * error + 1e-12).all()


def test_hutchinson_of_what_does_not_curve_is_zero(parameters: list[Tensor]) -> None:
    """Linear in all parameters; in one of them; and without one of them at all."""
    w, b, _ = parameters
    assert not flat(hutchinson(flat(parameters).sum(), parameters)).any()
    curved = hutchinson(w.square().sum() + b.sum(), parameters)
    assert curved[0].all()
    assert not curved[1].any()
    assert not curved[2].any()


@pytest.mark.parametrize("real", [None, 4])
def test_gauss_newton_bartlett_is_its_definition(parameters: list[Tensor], real: int | None) -> None:
    noise = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    mask = None if real is None else torch.arange(6) < real
    estimates = gauss_newton_bartlett(net(parameters), parameters, noise, real=mask)
    rows = 6 if real is None else real
    labels = (net(parameters) + noise).argmax(1)
    mean = functional.cross_entropy(net(parameters)[:rows], labels[:rows])
    gradients = torch.autograd.grad(mean, parameters)
    torch.testing.assert_close(flat(estimates), rows * flat(list(gradients)).square(), rtol=1e-10, atol=1e-14)


def test_gauss_newton_bartlett_gives_the_gauss_newton_diagonal_on_average(parameters: list[Tensor]) -> None:
    """For the last layer alone the model is linear in its weights, and Gauss-Newton is the Hessian."""
    torch.manual_seed(6)
    last = parameters[2:]
    number = 1000
    samples = torch.stack([flat(gauss_newton_bartlett(net(parameters), last)) for _ in range(number)])
    diagonal = whole_hessian(loss, parameters).diagonal()[-15:]
    assert ((samples.mean(0) - diagonal).abs() < 5 * samples.std(0) / number**0.5).all()


def test_labels_are_drawn_from_the_models_distribution() -> None:
    torch.manual_seed(7)
    logits = torch.tensor([1.0, 0.0, -2.0, 3.0])
    shares = torch.bincount(sample_labels(logits.expand(20_000, 4)), minlength=4) / 20_000
    torch.testing.assert_close(shares, logits.softmax(0), rtol=0, atol=0.015)
    assert sample_labels(logits[None], torch.tensor([[9.0, 0.0, 0.0, 0.0]])).tolist() == [0]


def test_the_optimizer_takes_them(parameters: list[Tensor]) -> None:
    """The example of the module's docstring."""
    optimizer = build(parameters, SophiaSpec(), lr=1e-2)
    optimizer.set_hessian(gauss_newton_bartlett(net(parameters), parameters, torch.zeros(6, 5)))
    loss(parameters).backward()
    optimizer.step()
    assert all(optimizer.state[parameter]["h"].any() for parameter in parameters)
    assert squared_gradient(torch.tensor(3.0), 2) == 18.0
