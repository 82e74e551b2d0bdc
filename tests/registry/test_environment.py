import platform
import subprocess
from importlib.metadata import version

import numpy as np
import pytest

from dlhpc.registry.environment import _PACKAGES, code_version, environment


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    done = subprocess.run(["git", "-C", folder, *identity, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def checkout_of_one_file(tmp_path):
    folder = tmp_path / "checkout"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "code.py").write_text("1\n")
    git(folder, "add", "code.py")
    git(folder, "commit", "-q", "-m", "first")
    return folder


@pytest.mark.parametrize(("backend", "package"), [("flax", "jax"), ("torch", "torch")])
def test_versions_are_those_installed(backend, package):
    found = environment(backend)
    assert found["python"] == platform.python_version()
    assert found["numpy"] == np.__version__
    assert found[package] == version(package)
    assert "deep-learning-hpc-demo" in found


def test_backends_name_their_own_packages_only():
    assert "torch" not in environment("flax")
    assert "jax" not in environment("torch")


def test_a_package_that_is_not_installed_is_left_out(monkeypatch):
    monkeypatch.setitem(_PACKAGES, "flax", ("jax", "no-such-package"))
    assert "no-such-package" not in environment("flax")
    assert "jax" in environment("flax")


def test_the_commit_is_told_and_whether_files_differ(checkout_of_one_file):
    folder = checkout_of_one_file
    clean = code_version(folder)
    assert clean.commit == git(folder, "rev-parse", "HEAD")
    assert not clean.modified
    (folder / "new.py").write_text("untracked files are no part of the code\n")
    assert not code_version(folder).modified
    (folder / "code.py").write_text("2\n")
    assert code_version(folder).modified


def test_no_checkout_no_commit(tmp_path):
    assert code_version(tmp_path) is None


def test_a_package_installed_inside_another_checkout_has_no_commit(checkout_of_one_file):
    installed = checkout_of_one_file / ".venv"
    installed.mkdir()
    (installed / "module.py").write_text("")
    assert code_version(installed) is None


def test_git_may_be_missing(checkout_of_one_file, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert code_version(checkout_of_one_file) is None


def test_asking_changes_nothing_in_the_checkout(checkout_of_one_file):
    before = {path: path.stat().st_mtime_ns for path in checkout_of_one_file.rglob("*")}
    code_version(checkout_of_one_file)
    assert {path: path.stat().st_mtime_ns for path in checkout_of_one_file.rglob("*")} == before
