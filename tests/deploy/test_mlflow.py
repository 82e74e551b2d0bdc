"""The registry in MLflow, against a real MLflow server with SQLite."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dlhpc.backends import load_backend
from dlhpc.cli.main import main
from dlhpc.errors import DlhpcError, UsageError
from dlhpc.registry.manifest import WEIGHTS_FILE
from dlhpc.registry.store import Registry
from tests.deploy.mlflow_server import mlflow_server
from tests.registry.samples import sample
from tests.registry.stores.mlflow_promises import Place, Promises, files_of, name, publish

__all__ = ["name"]

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(600)]

KILLS = 20


@pytest.fixture(scope="module")
def place(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("mlflow") / "server"
    with mlflow_server(checkout, folder) as url:
        yield Place(url, folder / "artifacts")


@pytest.fixture
def dlhpc(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(*arguments: object, status: int = 0) -> str:
        assert main([*map(str, arguments)]) == status
        shown = capsys.readouterr()
        return shown.err if status else shown.out

    return run


class TestPromises(Promises):
    """All of them, as with the double."""


def test_a_command_pushes_and_another_pulls(place: Place, name: str, dlhpc: Callable[..., str]) -> None:
    """local -> MLflow -> local: the same digest; a damaged file on the server's disk is named, with status 3."""
    artifact = sample(2**20)  # no other test's: it lies under this name alone
    Registry("registry", load_backend).publish(artifact, name, alias="production")
    location = f"mlflow+{place.url}"
    pushed = json.loads(dlhpc("registry", "push", f"{name}@production", location, "--alias", "production", "--json"))
    assert pushed["digest"] == artifact.digest
    pulled = json.loads(dlhpc("registry", "pull", location, f"{name}@production", "--registry", "back", "--json"))
    assert (pulled["digest"], pulled["ref"]) == (artifact.digest, f"{name}:1")
    assert Registry("back", load_backend).read(name) == Registry("registry", load_backend).read(name)
    path = place.file(name, WEIGHTS_FILE)
    path.write_bytes(bytes(path.stat().st_size))
    told = dlhpc("registry", "pull", location, name, "--registry", "again", status=3)
    assert f"{WEIGHTS_FILE} of {name}:1 in {location}: sha256 is" in told


def test_killed_publishers_leave_nothing_that_is_served(place: Place, name: str) -> None:
    """kill -9 x 20, at random moments: every version that is there reads, and the next publication works."""
    draw, started = random.Random(0), time.monotonic()
    publish(place, name, 1000)
    longest_s = 1.5 * (time.monotonic() - started)
    for number in range(KILLS):
        child = os.fork()
        if child == 0:
            publish(Place(place.url, place.artifacts), name, number)
            os._exit(0)
        time.sleep(draw.uniform(0, longest_s))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    versions = place.store.list(name)
    for version in versions:
        assert place.store.read(version.ref)
    for number in range(KILLS):
        publish(place, name, number)
    assert len(place.store.list(name)) == KILLS + 1
    assert len({version.digest for version in place.store.list(name)}) == KILLS + 1


def test_a_server_that_wants_credentials(
    checkout: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin = {"MLFLOW_AUTH_ADMIN_PASSWORD": "a long secret 1", "MLFLOW_FLASK_SERVER_SECRET_KEY": "for the forms"}
    with mlflow_server(checkout, tmp_path / "server", "--app-name", "basic-auth", **admin) as url:
        artifact, location = sample(), Place(url, tmp_path / "server" / "artifacts")

        def push() -> str:
            from dlhpc.registry.stores.mlflow import MlflowStore

            store = MlflowStore(f"mlflow+{location.url}")
            return store.publish_bytes(artifact.manifest_bytes, files_of(artifact), name).digest

        with pytest.raises(UsageError, match="wants credentials, and none came"):
            push()
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
        with pytest.raises(UsageError, match="those that came are refused"):
            push()
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "a long secret 1")
        assert push() == artifact.digest


def test_a_server_that_lost_its_database(checkout: Path, tmp_path: Path, name: str) -> None:
    with mlflow_server(checkout, tmp_path / "server") as url:
        broken = Place(url, tmp_path / "server" / "artifacts")
        publish(broken, name)
        (tmp_path / "server" / "mlflow.db").write_bytes(b"no database")
        with pytest.raises(DlhpcError, match=rf"{url}: .*not a database"):
            broken.store.read(name)
    with pytest.raises(DlhpcError, match="no answer of an MLflow server"):
        broken.store.read(name)
