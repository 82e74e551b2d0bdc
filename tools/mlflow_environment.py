"""Make the environment that MLflow runs in, if it is not there, and print its Python.

    python tools/mlflow_environment.py

It lies in the folder `mlflow` of the environment that runs this, and sees that one's packages beneath its own, so that
only what MLflow alone needs is installed: a minute or two, 400 MB. dlhpc itself never imports MLflow.
"""

from __future__ import annotations

import fcntl
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PINS = ROOT / "requirements-mlflow.txt"


def mlflow_python() -> Path:
    """The Python of MLflow's environment, made first where it is missing or older than its pins."""
    folder = Path(sys.prefix) / "mlflow"
    stamp, python = folder / ".set-up", folder / "bin" / "python"
    folder.mkdir(exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != PINS.read_text():
            print(f"setting up {folder}: a minute or two", file=sys.stderr)
            _make(folder, python)
            stamp.write_text(PINS.read_text())
    return python


def _make(folder: Path, python: Path) -> None:
    venv.create(folder, with_pip=True)
    own = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    (own / "beneath.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(PINS)]
    subprocess.run(install, check=True, stdout=sys.stderr)


if __name__ == "__main__":
    print(mlflow_python())
