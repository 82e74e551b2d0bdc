"""What MLflow's pages show of a version."""

from __future__ import annotations

import pytest

from dlhpc.registry.stores import mlflow_runs
from tests.registry.samples import sample


def test_every_setting_is_a_parameter_that_mlflow_takes() -> None:
    settings = {each["key"]: each["value"] for each in mlflow_runs.settings(sample(3).manifest)}
    assert settings["seed"] == "3"
    assert settings["model.num_classes"] == "3"
    assert settings["data.mean"] == "[0.25]"
    assert max(map(len, settings.values())) <= 500


def test_a_user_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise KeyError("uid not found")

    monkeypatch.setattr("getpass.getuser", nobody)
    assert mlflow_runs.publisher().startswith("unknown@")
