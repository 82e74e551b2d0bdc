"""Optimizers in float64 numpy, written from their papers' listings and from nothing else.

Both scale the weight decay by the learning rate, as this project does throughout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from dlhpc.spec.optimizer import AdamWSpec, LionSpec, OptimizerSpec

Vector = npt.NDArray[np.float64]
Gradient = Callable[[Vector, int], Vector]


def trajectory(spec: OptimizerSpec, theta: Vector, gradient: Gradient, rates: list[float]) -> Iterator[Vector]:
    """The parameters after each step, one learning rate per step."""
    match spec:
        case AdamWSpec():
            yield from _adamw(spec, theta, gradient, rates)
        case LionSpec():
            yield from _lion(spec, theta, gradient, rates)


def _adamw(spec: AdamWSpec, theta: Vector, gradient: Gradient, rates: list[float]) -> Iterator[Vector]:
    """Loshchilov & Hutter, arXiv:1711.05101v3, algorithm 2: lines 5 to 12, with eta_t alpha = the learning rate."""
    beta_1, beta_2, first, second = spec.b1, spec.b2, np.zeros_like(theta), np.zeros_like(theta)
    for t, alpha in enumerate(rates, start=1):
        g_t = gradient(theta, t)  # line 6
        first = beta_1 * first + (1 - beta_1) * g_t  # line 7
        second = beta_2 * second + (1 - beta_2) * np.power(g_t, 2)  # line 8
        first_hat = first / (1 - np.power(beta_1, t))  # line 9
        second_hat = second / (1 - np.power(beta_2, t))  # line 10
        theta = theta - alpha * (first_hat / (np.power(second_hat, 0.5) + spec.eps) + spec.weight_decay * theta)
        yield theta


def _lion(spec: LionSpec, theta: Vector, gradient: Gradient, rates: list[float]) -> Iterator[Vector]:
    """Chen et al., arXiv:2302.06675, algorithm 2."""
    momentum = np.zeros_like(theta)
    for t, eta in enumerate(rates, start=1):
        g_t = gradient(theta, t)
        c_t = spec.b1 * momentum + (1 - spec.b1) * g_t
        direction = np.where(c_t > 0, 1.0, np.where(c_t < 0, -1.0, 0.0))
        theta = theta - eta * (direction + spec.weight_decay * theta)
        momentum = spec.b2 * momentum + (1 - spec.b2) * g_t
        yield theta
