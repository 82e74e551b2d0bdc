"""Versions in MLflow, against a double of its server; tests/deploy/test_mlflow.py has the real one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dlhpc.errors import UsageError
from tests.registry.samples import sample
from tests.registry.stores.mlflow_double import Double, running
from tests.registry.stores.mlflow_promises import Place, Promises, name, publish

__all__ = ["name"]


@pytest.fixture
def double(tmp_path: Path) -> Iterator[Double]:
    with running(tmp_path / "artifacts") as double:
        yield double


@pytest.fixture
def place(double: Double) -> Place:
    return Place(double.url, double.artifacts)


class TestPromises(Promises):
    """All of them."""


def test_the_version_is_created_last(double: Double, place: Place) -> None:
    publish(place, "pets")
    changes = [request for request in double.requests if not request.startswith("GET")]
    assert [each.rpartition("/")[2] for each in changes[-4:]] == ["manifest.json", "create", "update", "create"]
    assert changes[-1] == "POST /api/2.0/mlflow/model-versions/create"


def test_what_failed_is_deleted_where_the_server_still_answers(double: Double, place: Place) -> None:
    double.forced = [("weights", 404, b'{"error_code": "FEATURE_DISABLED", "message": "no artifacts"}')]
    with pytest.raises(Exception, match="no artifacts"):
        publish(place, "pets")
    assert [run["deleted"] for run in double.runs.values()] == [True]
    publish(place, "pets")
    assert [run["deleted"] for run in double.runs.values()] == [True, False]


def test_a_version_that_was_created_twice_is_one(double: Double, place: Place) -> None:
    """The server created it, and its answer was lost: it is asked again."""
    create, lost = double.post_model_versions_create, [True]

    def create_and_lose(**fields: object) -> dict[str, object]:
        reply = create(**fields)  # type: ignore[arg-type]
        if lost.pop() if lost else False:
            double.forced = [("model-versions/create", 200, b"{}")]
            create(**fields)  # type: ignore[arg-type]
        return reply

    double.post_model_versions_create = create_and_lose  # type: ignore[method-assign]
    assert publish(place, "pets") == "pets:1"
    assert list(double.versions) == [("pets", 1)]
    assert not double.runs["run1"]["deleted"]


def test_a_deleted_experiment_says_how_to_restore_it(double: Double, place: Place) -> None:
    double.experiments["pets"] = {"experiment_id": "7", "lifecycle_stage": "deleted"}
    with pytest.raises(UsageError, match="mlflow experiments restore --experiment-id 7"):
        publish(place, "pets")


def test_a_server_that_does_not_carry_artifacts_is_refused(double: Double, place: Place) -> None:
    double.artifact_uri = "s3://bucket/{run}"
    with pytest.raises(UsageError, match=r"keeps artifacts at s3://bucket/run1/model, .* --artifacts-destination"):
        publish(place, "pets")
    assert double.versions == {}


def test_publishers_are_named(place: Place) -> None:
    publish(place, "pets")
    (version,) = place.store.list("pets")
    assert "@" in version.published_by
    assert version.published_at == "1970-01-01T00:00:01.000000Z"
    assert version.digest == sample().digest
