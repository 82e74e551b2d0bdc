"""The hand-written derivatives are those of the functions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from tests.reference.problems import PROBLEMS, Problem

Vector = npt.NDArray[np.float64]


def difference(function: Callable[[Vector], Vector | float], x: Vector, axis: int, width: float) -> Vector:
    """Of fourth order, central."""
    unit = np.zeros_like(x)
    unit[axis] = width
    near, far = (np.subtract(function(x + k * unit), function(x - k * unit)) for k in (1, 2))
    return np.asarray((8 * near - far) / (12 * width))


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_gradient_and_hessian_diagonal_are_the_functions(problem: Problem) -> None:
    rng = np.random.default_rng(1)
    x = problem.start + 0.2 * rng.standard_normal(problem.start.size)
    slope, bend = problem.gradient(x), problem.hessian_diagonal(x)
    for axis in rng.choice(x.size, size=min(x.size, 60), replace=False):
        measured = difference(problem.value, x, axis, 1e-3)
        assert measured == pytest.approx(slope[axis], rel=1e-7, abs=1e-9 * np.abs(slope).max())
        measured = difference(problem.gradient, x, axis, 1e-3)[axis]
        assert measured == pytest.approx(bend[axis], rel=1e-7, abs=1e-9 * np.abs(bend).max())


def test_they_are_what_they_are_used_for() -> None:
    quadratic, softmax, rosenbrock = PROBLEMS
    assert [problem.start.size for problem in PROBLEMS] == [20, 650, 10]
    columns = np.stack([quadratic.gradient(unit) - quadratic.gradient(np.zeros(20)) for unit in np.eye(20)])
    assert np.linalg.cond(columns) == pytest.approx(1e6, rel=1e-6)
    assert np.count_nonzero(softmax.gradient(softmax.start) == 0.0) >= 10
    assert rosenbrock.value(np.ones(10)) == 0.0
    assert not rosenbrock.gradient(np.ones(10)).any()
