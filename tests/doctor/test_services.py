"""Findings about ports, locks and the registry."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from dlhpc import holders
from dlhpc.api import Registry
from dlhpc.doctor import services
from tests.registry.samples import sample


@pytest.mark.skipif(not holders.PROC.is_dir(), reason="reads Linux's /proc")
def test_a_taken_port_names_who_holds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        (taken,) = services.check_ports({port: "predictions"})
        assert taken.status == "warn"
        assert taken.subject == f"port {port} (predictions)"
        assert f"held by process {os.getpid()}" in taken.found
        assert f"kill {os.getpid()}" in taken.mend
        monkeypatch.setattr(holders, "PROC", Path("/no/proc"))
        (unknown,) = services.check_ports({port: "predictions"})
        assert "may not see" in unknown.found
    (free,) = services.check_ports({port: "predictions"})
    assert free.status == "ok"


@pytest.mark.skipif(not holders.PROC.is_dir(), reason="reads Linux's /proc")
def test_a_stale_lock_fails_and_its_mending_works(tmp_path: Path) -> None:
    lock = tmp_path / "py311_cpu" / "fused_adam" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    environ = {"TORCH_EXTENSIONS_DIR": str(tmp_path)}
    (finding,) = services.check_extension_locks(environ)
    assert finding.status == "fail"
    assert str(lock) in finding.found
    assert os.system(finding.mend) == 0
    (mended,) = services.check_extension_locks(environ)
    assert mended.status == "ok"


def test_no_extensions_folder_is_fine(tmp_path: Path) -> None:
    (finding,) = services.check_extension_locks({"TORCH_EXTENSIONS_DIR": str(tmp_path / "none")})
    assert finding.status == "ok"


def test_a_registry_that_is_not_there_yet_is_fine(tmp_path: Path) -> None:
    (finding,) = services.check_registry(tmp_path / "none", deep=True)
    assert finding.status == "ok"
    assert "first training" in finding.found


def test_a_registry_is_listed_and_deeply_verified(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry")
    registry.publish(sample(), "digits-mlp")
    (listed,) = services.check_registry(registry.root, deep=False)
    assert (listed.status, listed.found) == ("ok", f"1 names in {registry.root}")
    (verified,) = services.check_registry(registry.root, deep=True)
    assert "every file verified" in verified.found
    weights = max((path for path in registry.blobs.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.chmod(0o644)
    weights.write_bytes(content)
    assert next(services.check_registry(registry.root, deep=False)).status == "ok", "only names were read"
    damage = list(services.check_registry(registry.root, deep=True))
    assert {finding.status for finding in damage} == {"fail"}
    assert "copy" in damage[0].mend


def test_a_folder_that_is_no_registry_fails(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry")
    registry.publish(sample(), "digits-mlp")
    (registry.root / "registry.json").write_text("not JSON")
    (finding,) = services.check_registry(registry.root, deep=False)
    assert finding.status == "fail"
