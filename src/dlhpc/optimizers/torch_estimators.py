"""Estimates of the Hessian's diagonal for optimizers that take them (`RuleOptimizer.set_hessian`), usable alone.

if applied % 10 == 0:
    optimizer.set_hessian(gauss_newton_bartlett(model(inputs), parameters))
functional.cross_entropy(model(inputs), labels).backward()
optimizer.step()
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def hutchinson(loss: Tensor, parameters: Sequence[Tensor], probes: Sequence[Tensor] | None = None) -> list[Tensor]:
    """u * (Hessian u), one array per parameter (Hutchinson 1989; Liu et al. 2023, arXiv:2305.14342, algorithm 1).

    `loss` is a scalar with its graph; `probes` are the vectors u, of the parameters' shapes: standard normal numbers of
    torch's generator when absent. Estimates of a sum of losses are the sum of their estimates with the same probes.
    """
    if probes is None:
        probes = [torch.randn_like(parameter) for parameter in parameters]
    slopes = torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True)
    # A slope that does not depend on the parameters has no graph: its derivative is zero.
    curved = [(slope, u) for slope, u in zip(slopes, probes, strict=True) if slope.requires_grad]
    if not curved:
        return [torch.zeros_like(parameter) for parameter in parameters]
    products = torch.autograd.grad(
        [slope for slope, _ in curved], parameters, [u for _, u in curved], materialize_grads=True
    )
    return [u * product for u, product in zip(probes, products, strict=True)]


def gauss_newton_bartlett(
    logits: Tensor, parameters: Sequence[Tensor], noise: Tensor | None = None, *, real: Tensor | None = None
) -> list[Tensor]:
    """B * g * g, one array per parameter, for the gradient g of the mean cross entropy on labels sampled from the model
    (Liu et al. 2023, arXiv:2305.14342, algorithm 2).

    logits (B, classes) with their graph. `noise`, of the same shape, is what `sample_labels` takes. `real` (B,) tells
    padding (False) apart, which then does not count.
    """
    labels = sample_labels(logits, noise)
    per_row = functional.cross_entropy(logits, labels, reduction="none")
    rows = torch.tensor(len(labels)) if real is None else real.sum()
    loss = (per_row if real is None else torch.where(real, per_row, 0.0)).sum() / rows
    gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)
    return [squared_gradient(gradient, rows) for gradient in gradients]


def squared_gradient(gradient: Tensor, rows: int | Tensor) -> Tensor:
    """The Gauss-Newton-Bartlett estimate from the gradient of a mean over `rows` rows with sampled labels."""
    return rows * gradient.square()


def sample_labels(logits: Tensor, noise: Tensor | None = None) -> Tensor:
    """One class per row, drawn from softmax(logits): the greatest logit plus Gumbel noise (Gumbel 1954).

    logits (B, classes); `noise` of that shape, drawn with torch's generator when absent. Gives int64 (B,).
    """
    if noise is None:
        noise = -torch.log(torch.empty_like(logits).exponential_())
    return (logits.detach() + noise).argmax(dim=-1)
