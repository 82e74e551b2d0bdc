"""Servers of other makers, started for real. What cannot be installed or started fails the tests that need it.

Each server is a fixture that gives the environment in which dlhpc, or a program of its own maker, finds it. Their
packages lie in environments beside the one that runs this (tools/environments.py, requirements-*.txt).
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
READY_WITHIN_S = 120.0
AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Azurite's own, the same everywhere: no secret."""

Environ = dict[str, str]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All in this folder is of the deploy group."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.deploy)


@pytest.fixture(scope="session")
def environments() -> ModuleType:
    """tools/environments.py."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("environments", ROOT / "tools" / "environments.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def python(environments: ModuleType) -> Path:
    """The Python of the environment of object stores."""
    found: Path = environments.python_of("object-stores")
    return found


@pytest.fixture(scope="session")
def run(python: Path) -> Callable[..., str]:
    """Run `python -m tests.deploy.MODULE ...` in the environment of object stores; its output."""

    def run(environ: Environ, *arguments: object) -> str:
        command = [python, "-m", *map(str, arguments)]
        done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False, timeout=250)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    return run


@pytest.fixture(scope="session")
def s3(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environ]:
    """moto's server, with a bucket `models`."""
    port = free_port()
    command = [python, "-c", "from moto.server import main; main()", "-H", "127.0.0.1", "-p", str(port)]
    with _server(command, port, tmp_path_factory.mktemp("moto")):
        environ = _environ(
            AWS_ACCESS_KEY_ID="test",
            AWS_SECRET_ACCESS_KEY="test",
            AWS_DEFAULT_REGION="us-east-1",
            AWS_ENDPOINT_URL=f"http://127.0.0.1:{port}",
        )
        _make_bucket(python, environ, "s3")
        yield environ


@pytest.fixture(scope="session")
def gcs(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environ]:
    """gcp-storage-emulator, with a bucket `models`. It ignores ifGenerationMatch."""
    port = free_port()
    command = [python.parent / "gcp-storage-emulator", "start", "--host=127.0.0.1", f"--port={port}", "--in-memory"]
    with _server([*command, "--default-bucket=models"], port, tmp_path_factory.mktemp("gcs")):
        yield _environ(STORAGE_EMULATOR_HOST=f"http://127.0.0.1:{port}")


@pytest.fixture(scope="session")
def azure(environments: ModuleType, python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environ]:
    """Azurite's blob service, with a container `models`."""
    port = free_port()
    program = environments.node_program("azurite", "azurite-blob")
    options = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--skipApiVersionCheck", "--silent"]
    with _server([program, *options], port, tmp_path_factory.mktemp("azurite")):
        parts = {
            "DefaultEndpointsProtocol": "http",
            "AccountName": "devstoreaccount1",
            "AccountKey": AZURITE_KEY,
            "BlobEndpoint": f"http://127.0.0.1:{port}/devstoreaccount1",
        }
        text = "".join(f"{key}={value};" for key, value in parts.items())
        environ = _environ(AZURE_STORAGE_CONNECTION_STRING=text)
        _make_bucket(python, environ, "az")
        yield environ


def _make_bucket(python: Path, environ: Environ, scheme: str) -> None:
    code = f"import fsspec; fsspec.filesystem({scheme!r}).mkdir('models')"
    subprocess.run([python, "-W", "ignore", "-c", code], env=environ, check=True, timeout=120)


def _environ(**settings: str) -> Environ:
    """This process's environment, without settings of clouds that a user may have, and with these."""
    clouds = ("AWS_", "AZURE_", "GOOGLE_", "STORAGE_", "COV")
    own = {key: value for key, value in os.environ.items() if not key.startswith(clouds)}
    return own | settings | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "NO_PROXY": "127.0.0.1"}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def _server(command: list[Path | str], port: int, folder: Path) -> Iterator[None]:
    """Run a server until the block ends; fails, with its log, when it does not listen in time."""
    with (folder / "log").open("w+") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + READY_WITHIN_S
            while not _listens(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise AssertionError(f"{command[0]} is not there: status {process.poll()}\n{log.read()[-2000:]}")
                time.sleep(0.1)
            yield
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
