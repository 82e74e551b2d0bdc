"""The number of replicas: fixed, or between two bounds."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from dlhpc.spec.autoscaling import AutoscalingSpec
from dlhpc.spec.serving import LimitsSpec, ServingSpec


def test_a_server_has_one_number_of_replicas_or_two_bounds() -> None:
    fixed = ServingSpec(replicas=3)
    assert (fixed.fewest_replicas, fixed.most_replicas) == (3, 3)
    between = ServingSpec(autoscaling=AutoscalingSpec(min_replicas=2, max_replicas=5))
    assert (between.fewest_replicas, between.most_replicas) == (2, 5)
    with pytest.raises(ValidationError, match="replicas is 3 and autoscaling is on: keep one of the two"):
        ServingSpec(replicas=3, autoscaling=AutoscalingSpec(max_replicas=5))


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"max_replicas": 1, "min_replicas": 2}, "max_replicas is 1 and min_replicas 2"),
        ({"max_replicas": 0}, "greater than or equal to 1"),
        ({"max_replicas": 2, "min_replicas": 0}, "greater than or equal to 1"),
        ({"max_replicas": 2, "target_ongoing_requests": 0}, "greater than 0"),
        ({}, "max_replicas"),
    ],
)
def test_bounds_that_leave_nothing_are_refused(settings: dict[str, int], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        AutoscalingSpec(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("share", [1.5, 2.25])
def test_more_than_one_gpu_comes_in_whole_ones(share: float) -> None:
    with pytest.raises(ValidationError, match=r"give a share, such as 0\.5, or a whole number"):
        ServingSpec(gpus_per_replica=share)
    assert ServingSpec(gpus_per_replica=2).gpus_per_replica == 2


def test_a_load_that_a_replica_never_takes_brings_no_other() -> None:
    scaling = AutoscalingSpec(max_replicas=2, target_ongoing_requests=8)
    with pytest.raises(ValidationError, match=r"target_ongoing_requests is 8, and a replica takes 8 at a time"):
        ServingSpec(autoscaling=scaling, limits=LimitsSpec(max_concurrent=8))
    assert ServingSpec(autoscaling=scaling, limits=LimitsSpec(max_concurrent=9)).most_replicas == 2
    assert ServingSpec(autoscaling=scaling, limits=LimitsSpec(max_concurrent=None)).most_replicas == 2
