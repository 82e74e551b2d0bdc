"""A rule as machine code for a CPU: one pass over memory, whatever the shapes.

`move` is run once on symbols that write themselves down as C; a C++ compiler makes a library of it in half a second,
kept for the next process under $XDG_CACHE_HOME/dlhpc (~/.cache/dlhpc). It rounds each operation as numpy does on arrays
of the same format, without contraction to fused multiply-adds: the results are numpy's, to the bit.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dlhpc.optimizers.rules import BoundRule, Scalars

log = logging.getLogger(__name__)

Number = Literal["float", "double"]
FLAGS = ("-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
COMPILERS = ("g++", "c++", "clang++")


@dataclass(frozen=True)
class Kernel:
    """A compiled rule over dense host arrays of one number format."""

    source: str
    """What was compiled."""
    number: Number
    step: Any
    """The C function."""

    def __call__(
        self, sizes: Sequence[int], pointers: Sequence[int], coefficients: Sequence[float], threads: int
    ) -> None:
        """Update len(sizes) parameters in place.

        `pointers` holds the addresses of x, g and the slots of the first parameter, then of the next; `coefficients`
        its numbers likewise. Arrays are contiguous and hold as many elements as `sizes` says.
        """
        lengths, addresses = array("q", sizes), array("Q", pointers)
        numbers = array("f" if self.number == "float" else "d", coefficients)
        self.step(len(lengths), *(column.buffer_info()[0] for column in (lengths, addresses, numbers)), max(1, threads))


def kernel(bound: BoundRule, number: Number) -> Kernel | None:
    """The rule for float or double; None, said once, where no compiler makes one."""
    source = c_source(bound, number)
    library = load(source)
    if library is None:
        return None
    step = library.dlhpc_update
    step.argtypes, step.restype = [ctypes.c_int64, *[ctypes.c_void_p] * 3, ctypes.c_int64], None
    return Kernel(source, number, step)


@functools.cache
def load(source: str, options: tuple[str, ...] = ()) -> ctypes.CDLL | None:
    """The library of a C++ source; None, said once, where no compiler makes one."""
    compiler = next(filter(None, map(shutil.which, (*filter(None, [os.environ.get("CXX")]), *COMPILERS))), None)
    if compiler is None:
        _say_once("no C++ compiler was found: optimizers run several times slower; install g++")
        return None
    try:
        return _load(source, (compiler, *FLAGS, *options))
    except (OSError, subprocess.CalledProcessError) as error:
        detail = getattr(error, "stderr", None) or str(error)
        _say_once(f"{compiler} cannot compile optimizers, which run several times slower: {detail.strip()}")
        return None


@functools.cache
def _say_once(message: str) -> None:
    log.warning(message)


# -- building ----------------------------------------------------------------------------------------------------------


def cache_folder() -> Path:
    """Where libraries are kept between processes."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "dlhpc" / "kernels"


def _load(source: str, command: tuple[str, ...]) -> ctypes.CDLL:
    """The library of a source: the kept one, or a new one. Raises OSError or CalledProcessError."""
    library = _library_path(source, command)
    if library.exists():
        try:
            return ctypes.CDLL(str(library))
        except OSError:  # cut short, or of a C library that is no longer there
            library.unlink(missing_ok=True)
    _compile(source, command, library)
    return ctypes.CDLL(str(library))


def _library_path(source: str, command: tuple[str, ...]) -> Path:
    key = "\n".join((source, str(os.stat(command[0]).st_mtime_ns), *command, _processor()))
    name = f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.so"
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if folder.stat().st_uid != os.getuid() or folder.stat().st_mode & 0o022:
            raise PermissionError(folder)  # code is loaded from there: nobody else may write it
    except OSError:
        folder = _process_folder()
    return folder / name


@functools.cache
def _process_folder() -> Path:
    """A folder that lives as long as the process, where there is no cache."""
    folder = tempfile.TemporaryDirectory(prefix="dlhpc-kernels-")
    _kept_alive.append(folder)
    return Path(folder.name)


_kept_alive: list[Any] = []


def _compile(source: str, command: tuple[str, ...], library: Path) -> None:
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        code, made = Path(folder, "rule.cpp"), Path(folder, "rule.so")
        code.write_text(source)
        whole = [*command, str(code), "-o", str(made)]
        if subprocess.run([*whole, "-fopenmp"], capture_output=True, text=True, check=False).returncode:
            subprocess.run(whole, capture_output=True, text=True, check=True)  # one thread is better than none
        os.replace(made, library)


def _processor() -> str:
    """What -march=native depends on: homes are shared between unlike machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return "\n".join(
        sorted({line for line in lines if line.startswith(("flags", "Features", "model name", "CPU part"))})
    )


# -- writing C ---------------------------------------------------------------------------------------------------------

_TEMPLATE = """\
#include <cmath>
#include <cstdint>
#include <algorithm>

typedef {number} T;

static inline T sign(T x) {{ return x > 0 ? T(1) : x < 0 ? T(-1) : x; }}

static void move(int64_t n, {arrays}, const T *c) {{
{numbers}
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {{
{body}
    }}
}}

// Every thread takes an equal share of all elements, cut at cache lines.
extern "C" void dlhpc_update(
    int64_t count, const int64_t *sizes, T *const *pointers, const T *numbers, int64_t threads
) {{
    int64_t total = 0;
    for (int64_t k = 0; k < count; k++) total += sizes[k];
    threads = std::max<int64_t>(1, std::min(threads, total / 16384));
#pragma omp parallel for num_threads(threads) schedule(static, 1) if (threads > 1)
    for (int64_t share = 0; share < threads; share++) {{
        const int64_t from = total * share / threads / 16 * 16;
        const int64_t until = share + 1 == threads ? total : total * (share + 1) / threads / 16 * 16;
        int64_t before = 0;
        for (int64_t k = 0; k < count; before += sizes[k], k++) {{
            const int64_t low = std::max<int64_t>(from - before, 0), high = std::min(until - before, sizes[k]);
            if (low >= high) continue;
            T *const *p = pointers + k * {width};
            move(high - low, {shifted}, numbers + k * {coefficients});
        }}
    }}
}}
"""


def c_source(bound: BoundRule, number: Number) -> str:
    """The rule as C++, for parameters of one number format."""
    lines: list[str] = []
    names = ("x", "g", *(f"{slot}_slot" for slot in bound.slots))
    x, g, *slots = (_Symbol(f"{name}_i", lines) for name in names)
    count = len(bound.coefficients(np, Scalars(1e-3, 0.0, 1)))
    numbers = tuple(_Symbol(f"c{index}", lines) for index in range(count))
    new_slots, new_x = bound.move(_CNamespace(), g, tuple(slots), x, numbers)
    loads = [f"const T {name}_i = {name}[i];" for name in names]
    written = zip(names, (new_x, g, *new_slots), strict=True)
    stores = [f"{name}[i] = {new};" for name, new in written if str(new) != f"{name}_i"]
    return _TEMPLATE.format(
        number=number,
        arrays=", ".join(f"T *__restrict {name}" for name in names),
        numbers="\n".join(f"    const T c{index} = c[{index}];" for index in range(count)),
        body="\n".join(f"        {line}" for line in (*loads, *lines, *stores)),
        width=len(names),
        shifted=", ".join(f"p[{index}] + low" for index in range(len(names))),
        coefficients=count,
    )


class _Symbol:
    """A number in the loop's body. Every operation writes one line."""

    def __init__(self, name: str, lines: list[str]) -> None:
        self._name, self._lines = name, lines

    def __str__(self) -> str:
        return self._name

    def write(self, expression: str) -> _Symbol:
        name = f"v{len(self._lines)}"
        self._lines.append(f"const T {name} = {expression};")
        return _Symbol(name, self._lines)

    def __add__(self, other: _Operand) -> _Symbol:
        return self.write(f"{self} + {_text(other)}")

    def __radd__(self, other: float) -> _Symbol:
        return self.write(f"{_text(other)} + {self}")

    def __sub__(self, other: _Operand) -> _Symbol:
        return self.write(f"{self} - {_text(other)}")

    def __mul__(self, other: _Operand) -> _Symbol:
        return self.write(f"{self} * {_text(other)}")

    def __rmul__(self, other: float) -> _Symbol:
        return self.write(f"{_text(other)} * {self}")

    def __truediv__(self, other: _Operand) -> _Symbol:
        return self.write(f"{self} / {_text(other)}")


_Operand = _Symbol | float


class _CNamespace:
    """The namespace of the rules, written as C. NaN stays NaN."""

    def sign(self, x: _Symbol, /) -> _Symbol:
        return x.write(f"sign({x})")

    def sqrt(self, x: _Symbol, /) -> _Symbol:
        return x.write(f"std::sqrt({x})")

    def clip(self, x: _Symbol, low: float | None, high: float | None, /) -> _Symbol:
        above = x if low is None else x.write(f"{x} < {_text(low)} ? {_text(low)} : {x}")
        return above if high is None else above.write(f"{above} > {_text(high)} ? {_text(high)} : {above}")


def _text(operand: _Operand) -> str:
    return str(operand) if isinstance(operand, _Symbol) else f"T({float(operand)!r})"
