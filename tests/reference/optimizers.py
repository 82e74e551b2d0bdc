"""Optimizers in float64 numpy, written from their papers' listings and from nothing else.

All scale the weight decay by the learning rate, as this project does throughout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import assert_never

import numpy as np
import numpy.typing as npt

from dlhpc.spec.optimizer import AdaBeliefSpec, AdamWSpec, AdanSpec, LionSpec, OptimizerSpec, SophiaSpec

Vector = npt.NDArray[np.float64]
Field = Callable[[Vector, int], Vector]
"""A gradient, or an estimate of the Hessian's diagonal, at a point and a step (counted from 1)."""


def trajectory(
    spec: OptimizerSpec, theta: Vector, gradient: Field, rates: list[float], estimator: Field | None = None
) -> Iterator[Vector]:
    """The parameters after each step, one learning rate per step; `estimator` is what Sophia asks for curvature."""
    match spec:
        case AdamWSpec():
            yield from _adamw(spec, theta, gradient, rates)
        case LionSpec():
            yield from _lion(spec, theta, gradient, rates)
        case AdanSpec():
            yield from _adan(spec, theta, gradient, rates)
        case AdaBeliefSpec():
            yield from _adabelief(spec, theta, gradient, rates)
        case SophiaSpec():
            assert estimator is not None, "Sophia needs an estimator"
            yield from _sophia(spec, theta, gradient, rates, estimator)
        case _:
            assert_never(spec)


def _adamw(spec: AdamWSpec, theta: Vector, gradient: Field, rates: list[float]) -> Iterator[Vector]:
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


def _lion(spec: LionSpec, theta: Vector, gradient: Field, rates: list[float]) -> Iterator[Vector]:
    """Chen et al., arXiv:2302.06675, algorithm 2."""
    momentum = np.zeros_like(theta)
    for t, eta in enumerate(rates, start=1):
        g_t = gradient(theta, t)
        c_t = spec.b1 * momentum + (1 - spec.b1) * g_t
        direction = np.where(c_t > 0, 1.0, np.where(c_t < 0, -1.0, 0.0))
        theta = theta - eta * (direction + spec.weight_decay * theta)
        momentum = spec.b2 * momentum + (1 - spec.b2) * g_t
        yield theta


def _adan(spec: AdanSpec, theta: Vector, gradient: Field, rates: list[float]) -> Iterator[Vector]:
    """Xie et al., arXiv:2208.06677, algorithm 1, without restarts.

    The paper's beta_i is 1 - b_i here. Its listing starts from m_0 = g_0, n_0 = g_0^2; as in its authors' program, the
    averages start from zero and are divided by 1 - (1 - beta_i)^k instead, and there is no difference at k = 1.
    """
    beta_1, beta_2, beta_3 = 1 - spec.b1, 1 - spec.b2, 1 - spec.b3
    m_k, v_k, n_k = np.zeros_like(theta), np.zeros_like(theta), np.zeros_like(theta)
    g_previous: Vector | None = None
    for k, eta in enumerate(rates, start=1):
        g_k = gradient(theta, k)  # line 2
        difference = np.zeros_like(g_k) if g_previous is None else g_k - g_previous
        m_k = (1 - beta_1) * m_k + beta_1 * g_k  # line 3
        v_k = (1 - beta_2) * v_k + beta_2 * difference  # line 4
        n_k = (1 - beta_3) * n_k + beta_3 * np.square(g_k + (1 - beta_2) * difference)  # line 5
        m_hat = m_k / (1 - np.power(1 - beta_1, k))
        v_hat = v_k / (1 - np.power(1 - beta_2, k))
        n_hat = n_k / (1 - np.power(1 - beta_3, k))
        eta_k = eta / (np.sqrt(n_hat) + spec.eps)  # line 6
        step = eta_k * (m_hat + (1 - beta_2) * v_hat)
        if spec.decay == "prox":
            theta = (theta - step) / (1 + spec.weight_decay * eta)  # line 7
        else:
            theta = (1 - spec.weight_decay * eta) * theta - step  # the authors' `no_prox`
        g_previous = g_k
        yield theta


def _adabelief(spec: AdaBeliefSpec, theta: Vector, gradient: Field, rates: list[float]) -> Iterator[Vector]:
    """Zhuang et al., arXiv:2010.07468, algorithm 2, with decoupled decay; rectified as in Liu et al., arXiv:1908.03265,
    algorithm 2, except that only the decay acts where that listing falls back to plain momentum.
    """
    beta_1, beta_2, epsilon, lam = spec.b1, spec.b2, spec.eps, spec.weight_decay
    rho_infinity = 2 / (1 - beta_2) - 1
    m_t, s_t = np.zeros_like(theta), np.zeros_like(theta)
    for t, alpha in enumerate(rates, start=1):
        g_t = gradient(theta, t)
        m_t = beta_1 * m_t + (1 - beta_1) * g_t
        s_t = beta_2 * s_t + (1 - beta_2) * np.square(g_t - m_t) + epsilon
        m_hat, s_hat = m_t / (1 - np.power(beta_1, t)), s_t / (1 - np.power(beta_2, t))
        r_t = 1.0
        if spec.rectify:
            rho_t = rho_infinity - 2 * t * np.power(beta_2, t) / (1 - np.power(beta_2, t))
            r_t = 0.0
            if rho_t > 4:
                above = (rho_t - 4) * (rho_t - 2) * rho_infinity
                below = (rho_infinity - 4) * (rho_infinity - 2) * rho_t
                r_t = np.sqrt(above / below)
        theta = theta - alpha * lam * theta - alpha * r_t * m_hat / (np.sqrt(s_hat) + epsilon)
        yield theta


def _sophia(spec: SophiaSpec, theta: Vector, gradient: Field, rates: list[float], estimator: Field) -> Iterator[Vector]:
    """Liu et al., arXiv:2305.14342, algorithm 3: lines 2 to 14."""
    m_t, h_t, k = np.zeros_like(theta), np.zeros_like(theta), spec.interval
    gamma = spec.curvature_scale
    for t, eta_t in enumerate(rates, start=1):
        g_t = gradient(theta, t)
        m_t = spec.b1 * m_t + (1 - spec.b1) * g_t
        if k == 1 or t % k == 1:
            h_t = spec.b2 * h_t + (1 - spec.b2) * estimator(theta, t)
        theta = theta - eta_t * spec.weight_decay * theta
        ratio = m_t / np.maximum(gamma * h_t, spec.eps)
        theta = theta - eta_t * np.maximum(np.minimum(ratio, 1.0), -1.0)
        yield theta
