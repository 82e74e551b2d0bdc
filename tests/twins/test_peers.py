"""Where other libraries' optimizers equal these, and where they differ: each difference is asserted as one.

Versions are pinned in requirements-dev.txt. A test that fails after an upgrade says that a peer has changed.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import optax
import optax.contrib
import optimi
import pytest
import pytorch_optimizer
import torch

from dlhpc.optimizers import torch_optimizers
from dlhpc.spec.optimizer import AdaBeliefSpec, AdamWSpec, AdanSpec, LionSpec, OptimizerSpec, SophiaSpec
from tests.reference.optimizers import trajectory
from tests.reference.problems import PROBLEMS, Problem

Vector = npt.NDArray[np.float64]
Paths = dict[str, list[Vector]]

STEPS = 50
RATES = [0.01 * (1.0 + np.cos(np.pi * step / STEPS)) for step in range(STEPS)]
DECAY = 0.1
QUADRATIC, SOFTMAX, ROSENBROCK = (problem.name for problem in PROBLEMS)


def ours(spec: OptimizerSpec) -> Paths:
    """The references', which every form of our rules follows within 1e-11 (test_optimizers.py)."""
    return {
        problem.name: list(
            trajectory(
                spec,
                problem.start,
                lambda x, t, problem=problem: problem.gradient(x),
                RATES,
                lambda x, t, problem=problem: problem.hessian_diagonal(x),
            )
        )
        for problem in PROBLEMS
    }


def by_torch(
    make: Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer], *, rate_scale: float = 1.0, hessian: bool = False
) -> Paths:
    """A torch optimizer's; `hessian` hands estimates to `step` before steps 1, 11, ..."""
    paths: Paths = {problem.name: [] for problem in PROBLEMS}
    for problem in PROBLEMS:
        x = torch.nn.Parameter(torch.tensor(problem.start))
        optimizer = make([x])
        for step, rate in enumerate(RATES):
            optimizer.param_groups[0]["lr"] = rate * rate_scale
            point = x.detach().numpy().copy()
            x.grad = torch.tensor(problem.gradient(point))
            due = hessian and step % 10 == 0
            optimizer.step(**({"hessian": [torch.tensor(problem.hessian_diagonal(point))]} if due else {}))
            paths[problem.name].append(x.detach().numpy().copy())
    return paths


def by_optax(make: Callable[[Any], optax.GradientTransformation], *, hessian: bool = False) -> Paths:
    """An optax transformation's, made from a schedule."""
    paths: Paths = {}
    with jax.enable_x64(True):
        rates = jnp.asarray(RATES)
        for problem in PROBLEMS:
            tx, x, path = make(lambda count: rates[count]), jnp.asarray(problem.start), []
            state, update = tx.init(x), jax.jit(tx.update)
            for _ in RATES:
                given = {"estimate": jnp.asarray(problem.hessian_diagonal(np.asarray(x)))} if hessian else {}
                updates, state = update(jnp.asarray(problem.gradient(np.asarray(x))), state, x, **given)
                x = optax.apply_updates(x, updates)
                path.append(np.asarray(x))
            paths[problem.name] = path
    return paths


def apart(theirs: Paths, mine: Paths, steps: slice = slice(None)) -> dict[str, float]:
    """Per problem the largest difference relative to the largest parameter."""
    return {
        name: max(
            float(np.max(np.abs(a - b)) / np.max(np.abs(b)))
            for a, b in zip(theirs[name][steps], mine[name][steps], strict=True)
        )
        for name in mine
    }


EQUAL: dict[str, tuple[OptimizerSpec, Callable[[], Paths]]] = {
    "torch AdamW": (
        AdamWSpec(weight_decay=DECAY),
        lambda: by_torch(lambda p: torch.optim.AdamW(p, weight_decay=DECAY)),
    ),
    "optax adamw": (
        AdamWSpec(weight_decay=DECAY),
        lambda: by_optax(lambda rate: optax.adamw(rate, weight_decay=DECAY)),
    ),
    "optax lion": (
        LionSpec(weight_decay=DECAY),
        lambda: by_optax(lambda rate: optax.lion(rate, b1=0.9, b2=0.99, weight_decay=DECAY)),
    ),
    "optax adabelief": (
        AdaBeliefSpec(weight_decay=0.0),
        lambda: by_optax(lambda rate: optax.adabelief(rate, eps=1e-8, eps_root=1e-8)),
    ),
    "optimi AdamW": (
        AdamWSpec(weight_decay=DECAY),
        lambda: by_torch(
            lambda p: optimi.AdamW(p, lr=1.0, betas=(0.9, 0.999), eps=1e-8, weight_decay=DECAY, foreach=False)
        ),
    ),
    "optimi Lion": (
        LionSpec(weight_decay=DECAY),
        lambda: by_torch(lambda p: optimi.Lion(p, lr=1.0, weight_decay=DECAY, foreach=False)),
    ),
    "optimi Adan": (
        AdanSpec(weight_decay=DECAY),
        lambda: by_torch(lambda p: optimi.Adan(p, lr=1.0, eps=1e-8, weight_decay=DECAY, foreach=False)),
    ),
    "pytorch_optimizer Lion": (
        LionSpec(weight_decay=DECAY),
        lambda: by_torch(lambda p: pytorch_optimizer.Lion(p, weight_decay=DECAY)),
    ),
    "pytorch_optimizer Adan": (
        AdanSpec(weight_decay=DECAY),
        lambda: by_torch(lambda p: pytorch_optimizer.Adan(p, weight_decay=DECAY)),
    ),
    "pytorch_optimizer Adan, decoupled": (
        AdanSpec(decay="no_prox", weight_decay=DECAY),
        lambda: by_torch(lambda p: pytorch_optimizer.Adan(p, weight_decay=DECAY, weight_decouple=True)),
    ),
    "pytorch_optimizer AdaBelief": (
        AdaBeliefSpec(weight_decay=DECAY),
        lambda: by_torch(lambda p: pytorch_optimizer.AdaBelief(p, eps=1e-8, weight_decay=DECAY)),
    ),
}


@pytest.mark.parametrize("name", EQUAL)
def test_these_are_equal(name: str) -> None:
    spec, theirs = EQUAL[name]
    distances = apart(theirs(), ours(spec))
    assert max(distances.values()) <= 1e-12, distances


# -- optax -----------------------------------------------------------------------------------------------------------


def optax_adan(b2: float) -> Paths:
    return by_optax(lambda rate: optax.adan(rate, b2=b2, eps_root=0.0))


def test_optax_adan_weighs_the_gradients_difference_by_1_minus_b2_where_b2_is_due() -> None:
    """Hence it is right at step 1, where the difference is zero, wrong from step 2 on, and right for b2 = 1/2."""
    theirs, mine = optax_adan(0.92), ours(AdanSpec(weight_decay=0.0))
    assert max(apart(theirs, mine, slice(1)).values()) <= 1e-12
    assert min(apart(theirs, mine, slice(1, 2)).values()) > 1e-4
    assert min(apart(theirs, mine).values()) > 5e-3
    assert max(apart(optax_adan(0.5), ours(AdanSpec(b2=0.5, weight_decay=0.0))).values()) <= 1e-12


def test_optax_adabelief_and_sophia_leave_things_out() -> None:
    assert "weight_decay" not in inspect.signature(optax.adabelief).parameters
    assert not [name for name in dir(optax.contrib) if "bartlett" in name.lower() or "gnb" in name.lower()]


def optax_sophia_as_it_is(problem: Problem, spec: SophiaSpec) -> list[Vector]:
    """Sophia with two changes: m corrected for its start at zero, and the move made before the estimate is taken up."""
    x, m, h, path = problem.start, np.zeros_like(problem.start), np.zeros_like(problem.start), []
    for t, rate in enumerate(RATES, start=1):
        estimate = problem.hessian_diagonal(x)
        m = spec.b1 * m + (1 - spec.b1) * problem.gradient(x)
        step = np.clip(m / (1 - spec.b1**t) / np.maximum(spec.curvature_scale * h, spec.eps), -1, 1)
        x = x - rate * (step + spec.weight_decay * x)
        if t % spec.interval == 1:
            h = spec.b2 * h + (1 - spec.b2) * estimate
        path.append(x)
    return path


def test_optax_sophia_corrects_the_momentum_and_moves_by_the_old_curvature() -> None:
    spec = SophiaSpec(b2=0.9, gamma=10.0, weight_decay=DECAY)
    given = optax.GradientTransformationExtraArgs(
        lambda params: optax.EmptyState(), lambda updates, state, params=None, *, estimate: (estimate, state)
    )
    theirs = by_optax(
        lambda rate: optax.contrib.sophia(
            rate, b1=0.96, b2=0.9, eps=1e-12, weight_decay=DECAY, gamma=10.0, hessian_diagonal_fn=given
        ),
        hessian=True,
    )
    as_it_is = {problem.name: optax_sophia_as_it_is(problem, spec) for problem in PROBLEMS}
    assert max(apart(theirs, as_it_is).values()) <= 1e-11
    assert min(apart(theirs, ours(spec)).values()) > 1e-2


# -- torch-optimi ----------------------------------------------------------------------------------------------------


def test_optimi_adan_ignores_adam_wd() -> None:
    theirs = by_torch(
        lambda p: optimi.Adan(p, lr=1.0, eps=1e-8, weight_decay=DECAY, adam_wd=True, foreach=False),
    )
    assert max(apart(theirs, ours(AdanSpec(weight_decay=DECAY))).values()) <= 1e-12
    assert min(apart(theirs, ours(AdanSpec(decay="no_prox", weight_decay=DECAY))).values()) > 1e-4


def test_optimi_has_neither_sophia_nor_adabelief() -> None:
    assert not [name for name in dir(optimi) if name.lower().startswith(("sophia", "adabelief"))]


# -- pytorch_optimizer -----------------------------------------------------------------------------------------------


def test_pytorch_optimizer_sophia_has_no_gamma_but_p_can_stand_for_it() -> None:
    """Its move is lr clip(m / max(h, eps), p): ours with gamma = p, lr p, decay / p and eps p. It has no GNB."""
    assert "gamma" not in inspect.signature(pytorch_optimizer.SophiaH).parameters
    assert not hasattr(pytorch_optimizer, "SophiaG")
    p, mine = 0.01, ours(SophiaSpec(gamma=0.01, weight_decay=DECAY))
    plain = by_torch(lambda x: pytorch_optimizer.SophiaH(x, weight_decay=DECAY, p=p), hessian=True)
    assert min(apart(plain, mine).values()) > 1e-2
    scaled = by_torch(
        lambda x: pytorch_optimizer.SophiaH(x, weight_decay=DECAY * p, p=p, eps=1e-12 / p),
        rate_scale=1 / p,
        hessian=True,
    )
    assert max(apart(scaled, mine).values()) <= 1e-11


def test_pytorch_optimizer_rectified_adabelief_starts_with_unscaled_momentum_and_diverges() -> None:
    """As RAdam's listing has it; where gradients are large, those first steps leave for good. Ours waits instead."""
    mine = ours(AdaBeliefSpec(rectify=True, weight_decay=DECAY))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # overflow, on the way to infinity
        theirs = by_torch(lambda p: pytorch_optimizer.AdaBelief(p, eps=1e-8, weight_decay=DECAY, rectify=True))
    assert not np.max(np.abs(theirs[ROSENBROCK][-1])) < 1e10
    assert np.max(np.abs(theirs[QUADRATIC][-1])) > 100 * np.max(np.abs(mine[QUADRATIC][-1]))
    assert np.max(np.abs(mine[ROSENBROCK])) < 2.0


def test_pytorch_optimizer_rectified_adabelief_without_that_is_ours_up_to_eps() -> None:
    """eps is not scaled with the rest of the denominator there, and by default steps are left out while rho < 5."""
    mine = ours(AdaBeliefSpec(rectify=True, weight_decay=DECAY))

    def theirs(threshold: int) -> Paths:
        return by_torch(
            lambda p: pytorch_optimizer.AdaBelief(
                p,
                eps=1e-8,
                weight_decay=DECAY,
                rectify=True,
                degenerated_to_sgd=False,
                n_sma_threshold=threshold,
            )
        )

    assert max(apart(theirs(4), mine).values()) <= 1e-5
    assert min(apart(theirs(5), mine).values()) > 1e-5


def test_pytorch_optimizer_adan_without_foreach_turns_the_gradients_around() -> None:
    """A later user of `.grad` (accumulation, logging, a second optimizer) sees them negated."""
    for foreach, left in ((True, 1.0), (False, -1.0)):
        x = torch.nn.Parameter(torch.ones(3))
        x.grad = torch.ones(3)
        pytorch_optimizer.Adan([x], foreach=foreach).step()
        assert x.grad.tolist() == [left] * 3


# -- a count per group -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "per_parameter"),
    [
        (lambda p: torch_optimizers.build(p, AdanSpec(weight_decay=0.0), lr=0.1), True),
        (lambda p: optimi.Adan(p, lr=0.1, weight_decay=0.0, foreach=False), False),
        (lambda p: pytorch_optimizer.Adan(p, lr=0.1), False),
    ],
    ids=["ours", "optimi", "pytorch_optimizer"],
)
def test_a_parameter_that_joins_late_is_corrected_by_its_own_count(make: Any, per_parameter: bool) -> None:
    """The first step of Adan is lr along the sign; with the group's count it is another."""
    early, late = (torch.nn.Parameter(torch.zeros(2)) for _ in range(2))
    optimizer = make([early, late])
    for step in range(10):
        early.grad = torch.ones(2)
        late.grad = torch.ones(2) if step == 9 else None
        optimizer.step()
    assert (late.tolist() == pytest.approx([-0.1, -0.1], rel=1e-4)) == per_parameter
