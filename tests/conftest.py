"""What every test stands on: one thread count, no accelerator, and never a file written in the checkout."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.workspace import workspace  # noqa: F401 - a fixture

CHECKOUT = Path(__file__).resolve().parent.parent

# The same examples every time, however busy the machine is.
settings.register_profile("deterministic", deadline=None, derandomize=True)
settings.load_profile("deterministic")


def pytest_configure(config: pytest.Config) -> None:
    """Set the environment before any framework is imported, here and in every process that a test starts."""
    # Sums keep one order.
    for library in ("OMP", "MKL", "OPENBLAS"):
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")
    os.environ.setdefault("MPLBACKEND", "Agg")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # Shells start what runs in the background so, and all that it starts would ignore Ctrl-C too.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # A test behaves on a machine with an accelerator as it does without, unless the accelerator is what it tests.
    if config.getoption("markexpr") != "gpu":
        os.environ.update(JAX_PLATFORMS="cpu", DS_ACCELERATOR="cpu", CUDA_VISIBLE_DEVICES="")
    # The user's own settings are no part of a test, but for how long the soak is.
    for name in [name for name in os.environ if name.startswith("DLHPC_") and name != "DLHPC_SOAK_S"]:
        del os.environ[name]


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The root of the source tree."""
    return CHECKOUT


@pytest.fixture(scope="session", autouse=True)
def _away_from_the_checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Session fixtures, which run before any test's own folder exists, write here."""
    before = Path.cwd()
    folder = tmp_path_factory.mktemp("session")
    os.chdir(folder)
    os.environ["DLHPC_CACHE_DIR"] = str(folder / "verified")
    yield
    os.chdir(before)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, _away_from_the_checkout: None) -> None:
    """Each test works in a folder of its own: `runs/`, `registry/` and what is cached land there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DLHPC_CACHE_DIR", str(tmp_path / ".verified"))
