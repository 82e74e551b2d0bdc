"""Clipping, NaN policy, averaged weights and curvature: two processes on every ZeRO stage follow one without ZeRO."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from dlhpc.engines import torch_deepspeed
from dlhpc.ports import NamedArrays
from tests.engines import torch_rank
from tests.engines.torch_options import run_spec
from tests.engines.torch_rank import Plan

TOLERANCE, SOPHIAS_TOLERANCE = 5e-5, 2e-4
"""Of the greatest absolute value of each array, float32, after 8 steps. Sophia divides by small averages of one batch's
estimate, and magnifies rounding by what it divides by."""

POISONED = (2, 5)
"""Steps in whose first row, of the first process, a pixel is NaN."""
OF_ALL_STAGES = ("lion", "adan", "adabelief", "gnb")
Case = tuple[str, int, str, str]
"""Optimizer, ZeRO stage, clipping, NaN policy."""

TREATMENTS = [
    ("global", "skip"),
    ("adaptive", "raise"),
    ("global", "zero"),
    ("adaptive", "skip"),
    ("unclipped", "zero"),
]
STAGES = [*product(OF_ALL_STAGES, range(4)), *product(["hutchinson"], range(3))]
CASES = [(*case, *TREATMENTS[index % len(TREATMENTS)]) for index, case in enumerate(STAGES)]
ALL_CASES = [
    (*case, *treatment)
    for case, treatment in product(
        [*STAGES, *product(["adamw"], range(4))],
        product(("unclipped", "global", "adaptive"), ("raise", "skip", "zero")),
    )
]


def plan(optimizer: str, stage: int, clipping: str, policy: str) -> Plan:
    """Half a run on one stage, the other half on the next one that the optimizer can do."""
    following = (stage + 1) % (3 if optimizer == "hutchinson" else 4)
    specs = (
        run_spec(optimizer, number, clipping, non_finite_gradients=policy, ema_decay=0.8)
        for number in (stage, following)
    )
    return Plan(*specs, poisoned=() if policy == "raise" else POISONED)


@cache
def reference(optimizer: str, clipping: str, policy: str) -> dict[str, NamedArrays]:
    """The plain engine, in one process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_deepspeed, "available", lambda: False)
        whole = plan(optimizer, 0, clipping, policy)
        return Plan(whole.first, whole.first, whole.poisoned).follow()


def assert_two_processes_follow_one(cases: Iterable[Case], folder: Path, checkout: Path) -> None:
    plans = {"-".join(map(str, case)): plan(*case) for case in cases}
    for name, moments in torch_rank.in_two_processes(plans, folder, checkout).items():
        optimizer, _, clipping, policy = name.split("-")
        tolerance = SOPHIAS_TOLERANCE if optimizer in ("gnb", "hutchinson") else TOLERANCE
        for moment, expected in reference(optimizer, clipping, policy).items():
            assert moments[moment].keys() == expected.keys()
            for key in expected.keys() - {"agreed"}:
                scale = np.nan_to_num(np.abs(expected[key])).max(initial=1e-9)
                where = f"{name} {moment} {key}"
                np.testing.assert_allclose(
                    moments[moment][key], expected[key], rtol=0, atol=tolerance * scale, err_msg=where
                )


def test_two_processes_follow_one_on_every_stage_with_every_optimizer(tmp_path: Path, checkout: Path) -> None:
    assert_two_processes_follow_one(CASES, tmp_path, checkout)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_processes_follow_one_with_every_combination(tmp_path: Path, checkout: Path) -> None:
    assert_two_processes_follow_one(ALL_CASES, tmp_path, checkout)


def test_the_reference_does_what_the_policies_say() -> None:
    """So that agreement means something: poisoned steps are told, and counted only when they moved something."""
    for policy, applied in (("skip", 6), ("zero", 8)):
        end = reference("lion", "global", policy)["end"]
        assert int(end["counter/consumed"]) == 8
        assert int(end["counter/applied"]) == applied
        assert end["non_finite"].tolist() == [0, 1, 0, 0]  # of steps 4 to 7
        assert all(np.isfinite(array).all() for name, array in end.items() if "/" in name)
