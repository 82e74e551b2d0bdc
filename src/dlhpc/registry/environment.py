"""What computed a version: package versions, machine, commit. Asked for when an artifact is made, never at import."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from dlhpc.registry.manifest import Code

_PACKAGES = {
    "flax": ("jax", "jaxlib", "flax", "optax"),
    "torch": ("torch", "deepspeed"),
}


def environment(backend: str) -> dict[str, str]:
    """Versions that bear on the numbers: Python, dlhpc, numpy, the backend's packages; and the machine."""
    return toolchain("safetensors", *_PACKAGES[backend])


def toolchain(*packages: str) -> dict[str, str]:
    """Versions of Python, dlhpc, numpy and of those packages that are installed; and the kind of machine."""
    found = {"python": platform.python_version(), "platform": f"{platform.system()}-{platform.machine()}"}
    for package in ("deep-learning-hpc-demo", "numpy", *packages):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def code_version(folder: Path | None = None) -> Code | None:
    """The commit of the git checkout that `folder` (the package's own) is tracked in; None when there is none."""
    folder = folder or Path(__file__).parent
    # An installed package may lie, untracked, inside somebody else's checkout: that commit would say nothing.
    if not _git(folder, "ls-files", "."):
        return None
    commit, changes = _git(folder, "rev-parse", "HEAD"), _git(folder, "status", "--porcelain", "--untracked-files=no")
    return Code(commit=commit, modified=bool(changes)) if commit else None


def _git(folder: Path, *arguments: str) -> str | None:
    """Output of a git command, or None when git is missing, slow, or refuses."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
