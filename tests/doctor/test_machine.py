"""Findings about the machine, for machines that are too small."""

from __future__ import annotations

import shutil
import tempfile
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import pytest

from dlhpc.doctor import machine
from dlhpc.doctor.finding import Finding


def one(findings) -> Finding:
    (finding,) = findings
    return finding


def test_processors_are_counted() -> None:
    assert "usable" in one(machine.check_processors()).found


def test_memory_is_what_is_available_within_the_containers_limit(tmp_path: Path) -> None:
    meminfo, limit = tmp_path / "meminfo", tmp_path / "memory.max"
    meminfo.write_text("MemTotal: 99 kB\nMemAvailable:   16777216 kB\n")
    limit.write_text("max\n")
    assert one(machine.check_memory(meminfo, limit)) == Finding("memory", "ok", "16.0 GiB available")
    limit.write_text(f"{2**30}\n")
    short = one(machine.check_memory(meminfo, limit))
    assert (short.status, short.found) == ("warn", "1.0 GiB available")
    assert "limit" in short.mend
    assert one(machine.check_memory(tmp_path / "none", limit)).found == "unknown on this platform"


def test_shared_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=64 * 2**20))
    docker = one(machine.check_shared_memory(tmp_path))
    assert docker.status == "warn"
    assert "--shm-size" in docker.mend
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=2**30))
    assert one(machine.check_shared_memory(tmp_path)).status == "ok"
    assert "none on this platform" in one(machine.check_shared_memory(tmp_path / "none")).found


def test_room_for_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fine = tempfile.gettempdir()
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=2**40))
    assert {f.status for f in machine.check_room(Path(fine), tmp_path)} == {"ok"}
    long = tmp_path / ("x" * 60)
    long.mkdir()
    assert [f.status for f in machine.check_room(long, tmp_path)] == ["ok", "ok", "warn"]
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=10))
    assert [f.status for f in machine.check_room(Path(fine), tmp_path)] == ["warn", "warn"]
    monkeypatch.setattr("os.access", lambda place, mode: place != tmp_path)
    assert [f.status for f in machine.check_room(Path(fine), tmp_path)] == ["warn", "fail"]


def nvidia_smi(folder: Path, script: str) -> str:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return str(program)


def test_without_nvidia_smi_there_is_no_accelerator() -> None:
    finding = one(machine.check_accelerators(lambda name: None))
    assert finding.status == "ok"
    assert "processor" in finding.found


def test_an_accelerator_that_the_installed_builds_cannot_use(tmp_path: Path) -> None:
    program = nvidia_smi(tmp_path, "echo 'NVIDIA A100, 81920 MiB, 550.1'")
    versions = {"torch": "2.13.0+cpu", "jax": "0.10.2"}

    def installed(name: str) -> str:
        if name not in versions:
            raise PackageNotFoundError(name)
        return versions[name]

    device, torch, jax = machine.check_accelerators(lambda name: program, installed)
    assert "A100" in device.found
    assert (torch.status, jax.status) == ("warn", "warn")
    versions |= {"torch": "2.13.0", "jax-cuda13-plugin": "0.10.2"}
    assert one(machine.check_accelerators(lambda name: program, installed)).status == "ok"
    versions.clear()
    assert one(machine.check_accelerators(lambda name: program, installed)).status == "ok"


def test_a_broken_driver(tmp_path: Path) -> None:
    program = nvidia_smi(tmp_path, "exit 9")
    finding = one(machine.check_accelerators(lambda name: program))
    assert finding.status == "warn"
    assert "driver" in finding.mend
