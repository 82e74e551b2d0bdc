"""Python, compilers, installed packages, and whether the frameworks really import."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from dlhpc.doctor.finding import Finding

DISTRIBUTION = "deep-learning-hpc-demo"
OLDEST_PYTHON = (3, 11)
TOOLS = {
    "g++": "apt-get install build-essential (Linux), xcode-select --install (macOS)",
    "make": "apt-get install build-essential (Linux), xcode-select --install (macOS)",
    "ninja": "pip install ninja",
}
"""What compiles on the way: tool -> where it comes from."""

EXTRAS = {"": "the core", "flax": "JAX/Flax", "torch": "PyTorch/DeepSpeed", "serve": "serving"}
DEEP = {
    "jax": "import jax; print(jax.__version__, [str(d) for d in jax.devices()])",
    "torch": "import torch; print(torch.__version__, torch.cuda.device_count(), 'CUDA devices')",
    "deepspeed": "import deepspeed; print(deepspeed.__version__)",
    "ray": "import ray, ray.serve; print(ray.__version__)",
}
"""What proves that an installed package works: package -> program."""


def check_python(found: tuple[int, ...] | None = None, headers: Path | None = None) -> Iterator[Finding]:
    """The interpreter (its version, `found`) and its C headers."""
    found = found or sys.version_info[:3]
    headers = headers or Path(sysconfig.get_path("include"))
    number = ".".join(str(part) for part in found)
    what = f"{number} ({sys.executable}) on {platform.platform(terse=True)} {platform.machine()}"
    if found[:2] < OLDEST_PYTHON:
        yield Finding("Python", "fail", what, "install Python 3.11 or newer: apt-get install python3.11 python3.11-dev")
    else:
        yield Finding("Python", "ok", what)
    if (headers / "Python.h").exists():
        yield Finding("Python headers", "ok", str(headers))
    else:
        minor = f"{found[0]}.{found[1]}"
        yield Finding(
            "Python headers",
            "warn",
            f"no Python.h in {headers}: C++ extensions of PyTorch and DeepSpeed cannot be compiled",
            f"apt-get install python{minor}-dev",
        )


def check_tools(which: Callable[[str], str | None] = shutil.which) -> Iterator[Finding]:
    """Compilers and builders on the PATH, or beside the interpreter."""
    for tool, source in TOOLS.items():
        path = which(tool) or which(str(Path(sys.executable).with_name(tool)))
        if path:
            yield Finding(tool, "ok", path)
        else:
            yield Finding(tool, "warn", "not found: C++ extensions of PyTorch and DeepSpeed cannot be compiled", source)


def check_packages(installed: Callable[[str], str] = version) -> Iterator[Finding]:
    """The declared dependencies against what is installed, one finding per extra, and one for all frameworks."""
    try:
        declared = [Requirement(text) for text in requires(DISTRIBUTION) or []]
    except PackageNotFoundError:
        yield Finding("dlhpc", "fail", "runs from its source, not installed", "pip install -e '.[all]'")
        return
    missing_extras = []
    for extra, title in EXTRAS.items():
        finding = _check_extra(extra, title, declared, installed)
        missing_extras += [extra] if finding.status == "warn" else []
        yield finding
    if {"flax", "torch"} <= set(missing_extras):
        mend = f"pip install '{DISTRIBUTION}[flax]' or '{DISTRIBUTION}[torch]'"
        yield Finding("frameworks", "fail", "neither Flax nor PyTorch is installed: nothing can be trained", mend)


def _check_extra(extra: str, title: str, declared: list[Requirement], installed: Callable[[str], str]) -> Finding:
    missing, unfit, fit = [], [], []
    for requirement in declared:
        marker = requirement.marker
        own = "extra" in str(marker)
        if own != bool(extra) or (marker and not marker.evaluate({"extra": extra})):
            continue
        try:
            present = installed(requirement.name)
        except PackageNotFoundError:
            missing.append(requirement.name)
            continue
        if requirement.specifier.contains(present, prereleases=True):
            fit.append(f"{requirement.name} {present}")
        else:
            unfit.append(f"{requirement.name} is {present}, needs {requirement.specifier}")
    install = f"pip install '{DISTRIBUTION}[{extra}]'" if extra else f"pip install {DISTRIBUTION}"
    if unfit:
        return Finding(
            f"packages of {title}", "fail", "; ".join(unfit), f"{install}, or pip install -r requirements.txt"
        )
    if missing:
        return Finding(
            f"packages of {title}", "warn" if extra else "fail", f"not installed: {', '.join(missing)}", install
        )
    return Finding(f"packages of {title}", "ok", ", ".join(fit))


def check_imports(programs: dict[str, str] | None = None, timeout_s: float = 180.0) -> Iterator[Finding]:
    """Import each framework that is installed, in a process of its own (`dlhpc doctor --deep`)."""
    for package, program in (DEEP if programs is None else programs).items():
        try:
            version(package)
        except PackageNotFoundError:
            continue
        yield _try_import(package, program, timeout_s)


def _try_import(package: str, program: str, timeout_s: float) -> Finding:
    subject, started = f"import {package}", time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        mend = "look for stale extension locks above; else reinstall the package"
        return Finding(subject, "fail", f"no end after {timeout_s:.0f} s", mend)
    seconds = time.monotonic() - started
    if done.returncode == 0:
        said = done.stdout.strip().splitlines()
        return Finding(subject, "ok", f"{said[-1] if said else 'works'} ({seconds:.1f} s)")
    reasons = done.stderr.strip().splitlines()
    reason = reasons[-1] if reasons else f"ended with {done.returncode}"
    return Finding(subject, "fail", reason, f"pip install --force-reinstall {package}, or choose a build that fits")
