"""`dlhpc serve` before anything is started; the running server is tested in tests/serving/test_server.py."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from dlhpc.api import Registry
from dlhpc.cli.main import main
from dlhpc.serving import serve_ray
from dlhpc.serving.plan import Plan
from dlhpc.serving.versions import first_plan
from dlhpc.spec.serving import ServingSpec
from tests.registry.samples import sample
from tests.registry.test_signing import generated


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    root = tmp_path / "registry"
    Registry(root).publish(sample(1), "cats")
    return root


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[ServingSpec]:
    """Specs that reach the server, which says that it is ready and ends."""
    specs: list[ServingSpec] = []

    def serve(spec: ServingSpec, ready: Callable[[Plan], None]) -> None:
        specs.append(spec)
        ready(first_plan(spec))

    monkeypatch.setattr(serve_ray, "serve", serve)
    return specs


def test_an_empty_registry_is_not_found_and_the_next_command_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve"]) == 4
    assert "dlhpc train" in capsys.readouterr().err


def test_an_unknown_model_is_not_found(registry: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "cast"]) == 4
    assert "did you mean 'cats'" in capsys.readouterr().err


def test_a_damaged_model_is_refused(registry: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (manifest,) = (path for path in (registry / "manifests").rglob("*") if path.is_file())
    manifest.chmod(0o600)
    manifest.write_bytes(manifest.read_bytes().replace(b"cat", b"rat"))
    assert main(["serve"]) == 3
    assert manifest.name in capsys.readouterr().err


def test_an_unsigned_model_is_refused_and_told_by_name(
    registry: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, public = generated(tmp_path)
    assert main(["serve", "cats", "--set", f"verification.require_signature=[{public}]"]) == 3
    told = capsys.readouterr().err
    assert told.startswith("error: cats (sha256:")
    assert f"is not signed by {public} (key " in told
    assert "it has no signature" in told
    assert main(["serve", "cats", "--set", "verification.require_signature=[none.pub]"]) == 4
    assert "none.pub: no such file, expected a public key" in capsys.readouterr().err
    Path("key.pub").write_text("no key")
    assert main(["serve", "cats", "--set", "verification.require_signature=[key.pub]"]) == 2
    assert "key.pub: no public key in PEM that can be used" in capsys.readouterr().err


@pytest.mark.parametrize("setting", ["port", "metrics_port"])
def test_a_port_that_is_taken_is_a_conflict_that_names_the_setting(
    registry: Path, setting: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free, socket.create_server(("127.0.0.1", 0)) as taken:
        ports = {"port": free.getsockname()[1], "metrics_port": free.getsockname()[1]}
        free.close()
        ports[setting] = taken.getsockname()[1]
        # The other port only has to differ: nothing starts.
        other = "metrics_port" if setting == "port" else "port"
        assert main(["serve", "--set", f"{setting}={ports[setting]}", "--set", f"{other}={ports[other]}"]) == 4
    assert f"--set {setting}=<port>" in capsys.readouterr().err


def test_every_fault_of_the_settings_is_told_and_nothing_starts(
    tmp_path: Path, served: list[ServingSpec], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "serve.yaml").write_text("prot: 1\nreplicas: 0\n")
    assert main(["serve", "--config", "serve.yaml", "--set", "backend=tensorflow"]) == 2
    told = capsys.readouterr().err
    assert "serve.yaml:1:1: prot: unknown key; did you mean 'port'?" in told
    assert "replicas" in told
    assert "backend" in told
    assert served == []


def test_the_reference_and_the_registry_are_settings_like_others(registry: Path, served: list[ServingSpec]) -> None:
    elsewhere = registry.rename("elsewhere 1")
    Path("serve.yaml").write_text("model: other\nport: 9000\n")
    arguments = ["cats:1", "--config", "serve.yaml", "--registry", str(elsewhere), "--set", "replicas=3"]
    assert main(["serve", *arguments]) == 0
    assert served == [ServingSpec(model="cats:1", registry=Path("elsewhere 1"), port=9000, replicas=3)]


def test_ready_is_told_on_stderr_and_with_json_on_stdout(
    registry: Path, served: list[ServingSpec], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve"]) == 0
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("ready: POST http://127.0.0.1:8000/predict, metrics at http://127.0.0.1:8080/metrics")
    assert main(["serve", "--json", "--set", "host=0.0.0.0", "--set", "port=9000"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "url": "http://127.0.0.1:9000",
        "metrics": "http://127.0.0.1:8080/metrics",
        "model": "cats:1",
        "digest": f"sha256:{sample(1).digest}",
        "backend": "flax",
        "models": {"cats": f"sha256:{sample(1).digest}"},
    }


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--help"]) == 0
    told = capsys.readouterr().out
    assert "dlhpc serve digits-mlp@production" in told
    assert "dlhpc predict --url" in told
