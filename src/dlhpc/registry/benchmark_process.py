"""A version in one framework, in a process of its own, as the benchmark sees it.

Each framework gets a fresh process, so that its memory and its imports are its own.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from dlhpc.errors import DlhpcError, IntegrityError, NotFoundError, UsageError
from dlhpc.registry.benchmark_record import Beginning, DType, Load, Round
from dlhpc.spec.precision import ComputePrecision
from dlhpc.spec.run import Backend

_ERRORS: dict[int, type[DlhpcError]] = {2: UsageError, 3: IntegrityError, 4: NotFoundError}
_GRACE_S = 5.0
_SAID = 2000
"""Characters of the process's last words that an error repeats."""


class Subject(Protocol):
    """A version, loaded in one framework, that is measured."""

    def began(self) -> tuple[dict[str, Any], Beginning]:
        """Device, threads and versions of `Process`; what it took to be ready."""
        ...

    def round(self, batch_size: int, dtype: DType, seconds: float, calls: int | None) -> tuple[float, Round]:
        """Milliseconds of the very first call of this kind, and one round of calls."""
        ...

    def load(self) -> Load:
        """One more load."""
        ...

    def parity(self) -> float:
        """Largest difference of a class probability to the golden answers."""
        ...

    def close(self) -> None:
        """End it."""
        ...


class WorkerProcess:
    """A Subject in a process (benchmark_worker.py)."""

    def __init__(
        self,
        root: str,
        digest: str,
        backend: Backend,
        *,
        precision: ComputePrecision = "float32",
        cache_dir: Path | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """`cache_dir` is a node's cache, from which bytes are taken that were hashed when they came there; without it
        all are read from the registry and hashed. `environ` is the process's environment, this one's by default."""
        self._who = f"the process that measures sha256:{digest[:12]} in {backend}"
        # A file and not a pipe: a library that says much cannot fill it up and stand still.
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        cached = [] if cache_dir is None else [str(cache_dir)]
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "dlhpc.registry.benchmark_worker", root, digest, backend, precision, *cached],
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
        )

    def began(self) -> tuple[dict[str, Any], Beginning]:
        """Device, threads and versions, and what it took to be ready. Raises the error that kept it from it."""
        said = self._hear()
        return said["about"], Beginning.model_validate(said["beginning"])

    def round(self, batch_size: int, dtype: DType, seconds: float, calls: int | None) -> tuple[float, Round]:
        """Milliseconds of the very first call of this kind, and one round of calls."""
        said = self._ask(ask="round", batch_size=batch_size, dtype=dtype, seconds=seconds, calls=calls)
        return said["first_call_ms"], Round.model_validate(said["round"])

    def load(self) -> Load:
        """One more load."""
        return Load.model_validate(self._ask(ask="load"))

    def parity(self) -> float:
        """Largest difference of a class probability to the golden answers."""
        return float(self._ask(ask="parity")["parity"])

    def end(self) -> None:
        """Kill the process: whoever waits for its answer, in another thread too, gets a DlhpcError."""
        self._process.kill()

    def close(self) -> None:
        """Let the process end; it is killed when it does not."""
        try:
            self._process.communicate(timeout=_GRACE_S)
        except (subprocess.TimeoutExpired, BrokenPipeError):
            self._process.kill()
            self._process.wait()
        finally:
            self._stderr.close()

    def _ask(self, **question: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None
        return self._hear()

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith("\n"):
            raise self._died()
        said: dict[str, Any] = json.loads(line)
        if "error" in said:
            raise _ERRORS.get(said["status"], DlhpcError)(said["error"])
        return said

    def _died(self) -> DlhpcError:
        status = self._process.wait()
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        self._stderr.seek(0)
        said = self._stderr.read().decode(errors="replace").strip()[-_SAID:]
        memory = "; the system may have run out of memory" if status == -signal.SIGKILL else ""
        return DlhpcError(f"{self._who} {how}{memory}" + (f"; it said last:\n{said}" if said else ""))
