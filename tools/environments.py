"""Make an environment beside the one that runs this, if it is not there, and print its Python.

    python tools/environments.py object-stores azurite

It lies in a folder of that name in the environment that runs this, and sees that one's packages beneath its own, so
that only what requirements-<name>.txt lists is installed, and nothing else changes. A second call looks and does
nothing. It is for what cannot live with the versions pinned in requirements.txt.
"""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def python_of(name: str) -> Path:
    """The Python of an environment, made first where it is missing or other than its pins."""
    pins = ROOT / f"requirements-{name}.txt"
    folder = Path(sys.prefix) / name
    stamp, python = folder / ".set-up", folder / "bin" / "python"
    folder.mkdir(exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != pins.read_text():
            print(f"setting up {folder} from {pins.name}: a minute or two", file=sys.stderr)
            _make(folder, python, pins)
            stamp.write_text(pins.read_text())
    return python


def node_program(package: str, program: str) -> Path:
    """A program of an npm package, installed first, at the version that package.json in tests/deploy pins."""
    pins = ROOT / "tests" / "deploy" / "package.json"
    folder = Path(sys.prefix) / package
    stamp = folder / ".set-up"
    folder.mkdir(exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != pins.read_text():
            npm = shutil.which("npm")
            if npm is None:
                raise SystemExit(f"{package} needs Node.js and npm on the PATH; on Debian: sudo apt-get install npm")
            print(f"setting up {folder} by npm: some minutes", file=sys.stderr)
            (folder / "package.json").write_text(pins.read_text())
            options = ["--no-audit", "--no-fund", "--loglevel=error", "--prefix", str(folder)]
            subprocess.run([npm, "install", *options], check=True, stdout=sys.stderr)
            stamp.write_text(pins.read_text())
    return folder / "node_modules" / ".bin" / program


def _make(folder: Path, python: Path, pins: Path) -> None:
    venv.create(folder, with_pip=True)
    own = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    (own / "beneath.pth").write_text(sysconfig.get_path("purelib") + "\n")
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "-r", str(pins)]
    subprocess.run([str(python), "-m", "pip", "install", *options], check=True, stdout=sys.stderr)


if __name__ == "__main__":
    for wanted in sys.argv[1:]:
        print(node_program("azurite", "azurite-blob") if wanted == "azurite" else python_of(wanted))
