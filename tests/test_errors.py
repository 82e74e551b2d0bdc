"""Each error knows its exit status."""

from __future__ import annotations

import pytest

from dlhpc import errors


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.DlhpcError, 1),
        (errors.UsageError, 2),
        (errors.ConfigError, 2),
        (errors.MissingExtraError, 2),
        (errors.DataError, 1),
        (errors.TrainingError, 1),
        (errors.ServingError, 1),
        (errors.IntegrityError, 3),
        (errors.NotFoundError, 4),
        (errors.ConflictError, 4),
        (errors.Interrupted, 130),
    ],
)
def test_exit_codes(kind: type[errors.DlhpcError], code: int) -> None:
    assert kind.exit_code == code
    assert f"{kind.__name__}" in (errors.__doc__ or "")


def test_config_error_keeps_every_problem() -> None:
    assert str(errors.ConfigError(["a: one", "b: two"])) == "a: one\nb: two"
    assert errors.ConfigError("alone").problems == ("alone",)


def test_missing_extra_says_what_to_install() -> None:
    assert str(errors.MissingExtraError("backend 'torch'", "torch", "torch")) == (
        "backend 'torch' needs 'torch': pip install 'deep-learning-hpc-demo[torch]'"
    )
