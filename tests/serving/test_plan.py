"""A plan names each version once, and survives being written down."""

from __future__ import annotations

from dlhpc.serving.plan import Plan, PlannedModel, plan_of
from tests.serving.asgi import INFO


def test_the_first_plan_of_one_version_is_called_as_in_the_registry() -> None:
    plan = plan_of(INFO)
    assert (plan.epoch, [model.name for model in plan.models]) == (1, ["m"])
    assert plan_of(INFO, "mine").models[0].name == "mine"


def test_a_version_under_two_names_is_needed_once() -> None:
    plan = Plan(epoch=1, models=(PlannedModel(name="a", stable=INFO), PlannedModel(name="b", stable=INFO)))
    assert list(plan.versions.values()) == [INFO]


def test_a_plan_that_was_written_down_is_read_back_as_it_was() -> None:
    plan = plan_of(INFO)
    assert Plan.model_validate_json(plan.model_dump_json()) == plan
