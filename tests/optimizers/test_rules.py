"""The numbers of a step (the trajectories are in tests/twins/test_optimizers.py)."""

from __future__ import annotations

import warnings
from decimal import Decimal, localcontext

import jax.numpy as jnp
import numpy as np
import pytest

from dlhpc.optimizers.rules import Scalars, bind
from dlhpc.spec.optimizer import AdaBeliefSpec, AdamWSpec, AdanSpec, LionSpec, OptimizerSpec, SophiaSpec

STEPS = [*range(1, 400, 7), 1_000, 20_000, 3_000_000]


def rectification(b2: float, t: int) -> float:
    """RAdam's r_t as it is printed (arXiv:1908.03265, algorithm 2), in 50 digits."""
    with localcontext(prec=50):
        kept = Decimal(b2) ** t
        limit = 2 / (1 - Decimal(b2)) - 1
        rho = limit - 2 * t * kept / (1 - kept)
        if rho <= 4:
            return 0.0
        return float(((rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho)).sqrt())


@pytest.mark.parametrize("b2", [0.61, 0.65, 0.9, 0.99, 0.999])
def test_rectification_is_precise_in_float64_and_float32(b2: float) -> None:
    """Its plain form loses four digits in float64, and all of them in float32."""
    spec = AdaBeliefSpec(b1=0.0, b2=b2, rectify=True)
    for t in STEPS:
        exact = rectification(b2, t)
        assert bind(spec).coefficients(np, Scalars(1.0, 0.0, t))[0] == pytest.approx(exact, rel=1e-13)
        single = bind(spec).coefficients(jnp, Scalars(1.0, 0.0, jnp.float32(t)))[0]
        assert float(single) == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize(
    "spec",
    [AdamWSpec(), LionSpec(), AdanSpec(), AdaBeliefSpec(rectify=True), SophiaSpec()],
    ids=lambda spec: spec.name,
)
def test_the_numbers_stay_finite_and_quiet_for_ever(spec: OptimizerSpec) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for t in (1, 2, 10**3, 10**7, 10**12):
            assert np.isfinite(bind(spec).coefficients(np, Scalars(0.1, 0.1, t))).all()
