"""Functions to minimise, in float64 numpy, with their gradients and the diagonals of their Hessians by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits

Vector = npt.NDArray[np.float64]


class Problem(NamedTuple):
    """A smooth function, and where to start."""

    name: str
    start: Vector
    value: Callable[[Vector], float]
    gradient: Callable[[Vector], Vector]
    hessian_diagonal: Callable[[Vector], Vector]


def quadratic(dimensions: int = 20, condition: float = 1e6) -> Problem:
    """(x - c) A (x - c) / 2 with eigenvalues of A spread evenly in the logarithm, in rotated axes."""
    rng = np.random.default_rng(20)
    rotation, _ = np.linalg.qr(rng.standard_normal((dimensions, dimensions)))
    eigenvalues = np.logspace(-np.log10(condition) / 2, np.log10(condition) / 2, dimensions)
    matrix = (rotation * eigenvalues) @ rotation.T
    centre = rng.standard_normal(dimensions)
    return Problem(
        "quadratic",
        3.0 * rng.standard_normal(dimensions),
        lambda x: float((x - centre) @ matrix @ (x - centre)) / 2,
        lambda x: matrix @ (x - centre),
        lambda x: np.diag(matrix).copy(),
    )


def rosenbrock(dimensions: int = 10) -> Problem:
    """The sum over neighbours of 100 (x_{i+1} - x_i^2)^2 + (1 - x_i)^2; its valley ends at (1, ..., 1)."""

    def value(x: Vector) -> float:
        return float(np.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2))

    def gradient(x: Vector) -> Vector:
        rise, slope = x[1:] - x[:-1] ** 2, np.zeros_like(x)
        slope[:-1] += -400 * x[:-1] * rise - 2 * (1 - x[:-1])
        slope[1:] += 200 * rise
        return slope

    def hessian_diagonal(x: Vector) -> Vector:
        bend = np.zeros_like(x)
        bend[:-1] += -400 * (x[1:] - x[:-1] ** 2) + 800 * x[:-1] ** 2 + 2
        bend[1:] += 200
        return bend

    return Problem("rosenbrock", np.tile([-1.2, 1.0], dimensions)[:dimensions], value, gradient, hessian_diagonal)


def softmax_regression(examples: int = 200) -> Problem:
    """Mean cross entropy of a linear classifier of the first handwritten digits: 64 x 10 weights, then 10 biases.

    Some pixels are blank in all of them: the gradient of their weights is exactly zero.
    """
    images, labels = load_digits(return_X_y=True)
    inputs = np.hstack([images[:examples] / 16.0, np.ones((examples, 1))])
    targets = np.eye(10)[labels[:examples]]

    def probabilities(x: Vector) -> Vector:
        logits = inputs @ x.reshape(65, 10)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    def value(x: Vector) -> float:
        return float(-np.log(np.sum(probabilities(x) * targets, axis=1)).mean())

    def gradient(x: Vector) -> Vector:
        return (inputs.T @ (probabilities(x) - targets) / examples).ravel()

    def hessian_diagonal(x: Vector) -> Vector:
        shares = probabilities(x)
        return ((inputs**2).T @ (shares * (1 - shares)) / examples).ravel()

    start = 0.1 * np.random.default_rng(65).standard_normal(650)
    return Problem("softmax_regression", start, value, gradient, hessian_diagonal)


PROBLEMS = (quadratic(), softmax_regression(), rosenbrock())
