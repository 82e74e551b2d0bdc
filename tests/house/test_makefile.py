"""The Makefile, the set-up and the entry of continuous integration: what they promise, seen without installing."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

TARGETS = ["setup", "test", "demo", "check", "bench", "test-slow", "test-deploy", "test-gpu", "clean", "help"]


def make(checkout: Path, *arguments: str, cwd: Path) -> str:
    done = subprocess.run(
        ["make", "-f", str(checkout / "Makefile"), *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_help_lists_every_target_from_any_folder(checkout: Path, tmp_path: Path) -> None:
    told = make(checkout, cwd=tmp_path)
    for target in TARGETS:
        assert re.search(rf"^  make {target} +\S", told, re.MULTILINE), target


@pytest.mark.parametrize("target", ["demo", "test", "check", "bench", "test-slow", "test-deploy", "test-gpu"])
def test_every_target_sets_up_first_and_works_in_the_checkout(checkout: Path, tmp_path: Path, target: str) -> None:
    planned = make(checkout, "--dry-run", "--what-if", str(checkout / "requirements.txt"), target, cwd=tmp_path)
    set_up, work = planned.index("tools/setup.sh"), planned.rindex(f"cd '{checkout}' &&")
    assert set_up < work


def test_a_finished_set_up_is_not_repeated(checkout: Path, tmp_path: Path) -> None:
    stamp = checkout / ".venv" / ".set-up"
    planned = make(checkout, "--dry-run", f"--old-file={stamp}", "test", cwd=tmp_path)
    assert "tools/setup.sh" not in planned or not stamp.exists()


def test_checks_are_the_strict_ones(checkout: Path, tmp_path: Path) -> None:
    planned = make(checkout, "--dry-run", "check", cwd=tmp_path)
    for command in ("ruff check .", "ruff format --check .", "mypy", "tools/lock.py --check"):
        assert command in planned
    assert "strict = true" in (checkout / "pyproject.toml").read_text()


def test_continuous_integration_runs_all_tests_with_coverage_and_the_checks(checkout: Path) -> None:
    script = checkout / ".ci" / "run"
    assert script.stat().st_mode & stat.S_IXUSR
    text = script.read_text()
    assert "set -euo pipefail" in text
    assert 'make test PYTEST_ARGS="--cov=src' in text
    assert "\nmake check\n" in text
    configuration = (checkout / "pyproject.toml").read_text()
    assert "fail_under = 90" in configuration
    assert "branch = true" in configuration
    assert 'patch = ["subprocess"]' in configuration


def set_up(checkout: Path, venv: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(checkout / "tools" / "setup.sh"), str(venv)],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
    )


def fake_python(folder: Path, name: str, version: str) -> Path:
    """An interpreter of another version: this one, lying."""
    program = folder / name
    lie = f"import sys; sys.version_info = {version}"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{lie}; exec(open(0).read())" <<EOF\n$2\nEOF\n')
    program.chmod(0o755)
    return program


def test_without_a_usable_python_it_says_what_to_install(checkout: Path, tmp_path: Path) -> None:
    old = fake_python(tmp_path, "python-old", "(3, 10, 4)")
    done = set_up(checkout, tmp_path / "venv", PYTHON=str(old))
    assert done.returncode == 2
    assert "python-old: AssertionError: older than 3.11" in done.stderr
    assert "apt-get install python3.11 python3.11-dev python3.11-venv build-essential" in done.stderr
    assert not (tmp_path / "venv").exists()
    done = set_up(checkout, tmp_path / "venv", PYTHON="/no/such/python")
    assert "/no/such/python: not found" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_a_missing_compiler_is_a_warning_before_the_installation(checkout: Path, tmp_path: Path) -> None:
    done = set_up(checkout, tmp_path / "venv", PYTHON="/no/such/python", CXX="/no/such/compiler")
    assert "no C++ compiler" in done.stderr
