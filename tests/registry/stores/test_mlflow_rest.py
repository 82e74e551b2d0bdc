"""What MLflow's replies become: errors that say what to do."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from dlhpc.errors import DlhpcError, IntegrityError, UsageError
from dlhpc.registry.stores.mlflow_rest import ATTEMPTS, AbsentError, MlflowServer, TakenError
from tests.registry.stores.mlflow_double import Double, running

URI = "mlflow-artifacts:/run/artifacts"


@pytest.fixture
def double(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Double]:
    for variable in ("USERNAME", "PASSWORD", "TOKEN"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{variable}", raising=False)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with running(tmp_path / "artifacts") as double:
        yield double


def test_no_server_at_all() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and nobody listens
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        for ask in (
            lambda: MlflowServer(url).get("registered-models/get", name="pets"),
            lambda: MlflowServer(url).download(URI, "weights", 10, "weights"),
        ):
            with pytest.raises(DlhpcError, match=rf"{url}: no answer of an MLflow server .*is it running"):
                ask()


def test_another_kind_of_server(double: Double) -> None:
    double.forced = [("get", 200, b"<html>Welcome!</html>"), ("get", 404, b"<html>Not here</html>")]
    for _ in range(2):
        with pytest.raises(DlhpcError, match=r"this is no MLflow server") as error:
            MlflowServer(double.url).get("registered-models/get", name="pets")
        assert not isinstance(error.value, AbsentError)


def test_credentials_are_those_of_the_environment(double: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    double.post_registered_models_create("pets")
    double.authorization = "Basic cm9iaW46c2VjcmV0"
    with pytest.raises(UsageError, match=r"wants credentials, and none came: set MLFLOW_TRACKING_USERNAME"):
        MlflowServer(double.url).get("registered-models/get", name="pets")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "robin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
    with pytest.raises(UsageError, match="those that came are refused"):
        MlflowServer(double.url).get("registered-models/get", name="pets")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    assert MlflowServer(double.url).get("registered-models/get", name="pets")
    double.authorization = "Bearer abc"
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "abc")
    assert MlflowServer(double.url).get("registered-models/get", name="pets")


def test_a_permission_that_is_missing(double: Double) -> None:
    double.forced = [("get", 403, b"Permission denied")]
    with pytest.raises(UsageError, match=r"Permission denied.*status 403"):
        MlflowServer(double.url).get("registered-models/get", name="pets")


def test_a_busy_server_is_asked_again(double: Double) -> None:
    busy = b'{"error_code": "INTERNAL_ERROR", "message": "database is locked\\ntraceback"}'
    double.forced = [("create", 500, busy)] * (ATTEMPTS - 1)
    MlflowServer(double.url).post("registered-models/create", name="pets")
    assert list(double.models) == ["pets"]
    double.forced = [("create", 500, busy)] * ATTEMPTS
    with pytest.raises(DlhpcError, match=r"database is locked \(status 500 to POST /api/2.0/mlflow/registered-mod"):
        MlflowServer(double.url).post("registered-models/create", name="dogs")


def test_what_is_there_and_what_is_not(double: Double) -> None:
    server = MlflowServer(double.url)
    server.post("registered-models/create", name="pets")
    with pytest.raises(TakenError):
        server.post("registered-models/create", name="pets")
    with pytest.raises(AbsentError):
        server.get("registered-models/get", name="dogs")


def test_artifacts_are_read_up_to_a_limit(double: Double) -> None:
    server = MlflowServer(double.url)
    server.upload(URI, "file", bytes(1000))
    assert server.download(URI, "file", 1000, "it") == bytes(1000)
    assert len(server.download(URI, "file", 10, "it")) == 11
    with pytest.raises(IntegrityError, match=r"artifacts/run/artifacts/other: missing: it holds the weights"):
        server.download(URI, "other", 10, "the weights")
    double.forced = [("file", 500, b"oh")]
    with pytest.raises(DlhpcError, match=r"'oh' \(status 500 to GET"):
        server.download(URI, "file", 10, "it")


@pytest.mark.parametrize(
    ("uri", "fits"),
    [
        ("mlflow-artifacts:/run/artifacts", True),
        ("mlflow-artifacts://HERE/run/artifacts", True),
        ("http://HERE/api/2.0/mlflow-artifacts/artifacts/run/artifacts", True),
        ("mlflow-artifacts://elsewhere:5000/run/artifacts", False),
        ("http://elsewhere/api/2.0/mlflow-artifacts/artifacts/run/artifacts", False),
        ("http://HERE/run/artifacts", False),
        ("mlflow-artifacts:/../secrets", False),
        ("s3://bucket/run", False),
        ("/srv/mlruns/run", False),
    ],
)
def test_artifacts_go_through_the_server_alone(double: Double, uri: str, fits: bool) -> None:
    uri = uri.replace("HERE", double.url.removeprefix("http://"))
    server = MlflowServer(double.url)
    if fits:
        server.upload(uri, "file", b"x")
        assert (double.artifacts / "run" / "artifacts" / "file").read_bytes() == b"x"
    else:
        with pytest.raises(UsageError, match="keeps artifacts at"):
            server.upload(uri, "file", b"x")
