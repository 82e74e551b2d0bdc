"""Rules as machine code: numpy's results to the bit, and what happens when the compiler or the cache fails."""

from __future__ import annotations

import logging
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from dlhpc.optimizers import native
from dlhpc.optimizers.rules import BoundRule, Scalars, averaged, bind
from dlhpc.spec.optimizer import AdaBeliefSpec, AdamWSpec, AdanSpec, LionSpec, OptimizerSpec, SophiaSpec

RULES: dict[str, BoundRule] = {
    "adamw": bind(AdamWSpec()),
    "lion": bind(LionSpec()),
    "adan": bind(AdanSpec()),
    "adan-no_prox": bind(AdanSpec(decay="no_prox")),
    "adabelief": bind(AdaBeliefSpec(eps=1e-16)),
    "adabelief-rectify": bind(AdaBeliefSpec(rectify=True)),
    "sophia": bind(SophiaSpec()),
    "averaged": averaged(bind(LionSpec()), 0.9),
}
NUMBERS: dict[native.Number, Any] = {"float": np.float32, "double": np.float64}


@pytest.fixture(scope="module")
def _shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture(autouse=True)
def _compiler_as_found(_shared: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Kernels of this file alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(_shared))
    monkeypatch.delenv("CXX", raising=False)
    yield
    native.load.cache_clear()


@pytest.fixture
def no_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing was compiled yet; the folder that will hold it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native.load.cache_clear()
    native._say_once.cache_clear()
    return tmp_path / "dlhpc" / "kernels"


def made(bound: BoundRule, number: native.Number = "float") -> native.Kernel:
    kernel = native.kernel(bound, number)
    assert kernel is not None
    return kernel


def arrays(bound: BoundRule, size: int, dtype: Any) -> list[npt.NDArray[Any]]:
    """x, g and the slots; slots of squares are not negative."""
    generator = np.random.default_rng(size)
    values = [generator.standard_normal(size).astype(dtype) for _ in range(2 + len(bound.slots))]
    return [
        np.abs(value) if name in ("v", "n", "s") else value
        for name, value in zip(("x", "g", *bound.slots), values, strict=True)
    ]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("name", RULES)
def test_results_are_numpys_to_the_bit(name: str, number: native.Number, threads: int) -> None:
    bound, dtype = RULES[name], NUMBERS[number]
    several = [arrays(bound, size, dtype) for size in (1, 17, 0, 40_003, 65_536)]
    rows = [
        tuple(map(float, bound.coefficients(np, Scalars(0.01 * (k + 1), 0.1 * k, k + 1)))) for k in range(len(several))
    ]
    expected = []
    for (x, g, *slots), row in zip(several, rows, strict=True):
        new_slots, new_x = bound.move(np, g, tuple(slots), x, tuple(map(dtype, row)))
        expected.append([new_x, g.copy(), *(slot.copy() for slot in new_slots)])
    made(bound, number)(
        [group[0].size for group in several],
        [array.ctypes.data for group in several for array in group],
        [value for row in rows for value in row],
        threads,
    )
    for group, wanted in zip(several, expected, strict=True):
        for array, value in zip(group, wanted, strict=True):
            np.testing.assert_array_equal(array, value)
            assert value.dtype == dtype


def test_nan_stays_nan() -> None:
    for name, bound in RULES.items():
        x, g, *slots = arrays(bound, 3, np.float32)
        g[1] = np.nan
        numbers = [float(value) for value in bound.coefficients(np, Scalars(0.1, 0.0, 9))]
        made(bound)([3], [array.ctypes.data for array in (x, g, *slots)], numbers, 1)
        assert np.isnan(x).tolist() == [False, True, False], name


def test_a_library_is_kept_for_the_next_process(
    no_kernels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(RULES["lion"])
    (library,) = no_kernels.iterdir()
    assert library.suffix == ".so"
    native.load.cache_clear()
    monkeypatch.setattr(native, "_compile", lambda *_: pytest.fail("compiled again"))
    made(RULES["lion"])


def test_every_constant_and_format_has_its_own_library(no_kernels: Path, tmp_path: Path) -> None:
    specs: list[OptimizerSpec] = [LionSpec(), LionSpec(b1=0.8), LionSpec(b2=0.8)]
    for spec in specs:
        made(bind(spec))
    made(bind(LionSpec()), "double")
    made(bind(LionSpec(weight_decay=0.5)))  # no constant of the rule
    assert len(list(no_kernels.iterdir())) == 4


def test_a_damaged_library_is_made_again(no_kernels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(RULES["lion"])
    (library,) = no_kernels.iterdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))  # the linker remembers a path that it has loaded
    damaged = tmp_path / "other" / "dlhpc" / "kernels" / library.name
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"half")
    native.load.cache_clear()
    made(RULES["lion"])
    assert damaged.stat().st_size > 1000


def test_a_folder_that_others_could_write_is_not_loaded_from(no_kernels: Path, tmp_path: Path) -> None:
    folder = no_kernels
    folder.mkdir(parents=True)
    folder.chmod(stat.S_IRWXU | stat.S_IRWXO)
    made(RULES["lion"])
    assert not list(folder.iterdir())


def test_without_a_compiler_there_is_no_kernel_and_one_warning(
    no_kernels: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", "")
    with caplog.at_level(logging.WARNING):
        assert native.kernel(RULES["lion"], "float") is None
        assert native.kernel(RULES["adan"], "float") is None
    assert [record.message for record in caplog.records] == [
        "no C++ compiler was found: optimizers run several times slower; install g++"
    ]


def test_a_compiler_that_fails_is_named_with_its_complaint(
    no_kernels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho no such flag >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    assert native.kernel(RULES["lion"], "float") is None
    assert f"{broken} cannot compile optimizers" in caplog.text
    assert "no such flag" in caplog.text


def test_a_compiler_without_openmp_makes_one_thread(
    no_kernels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shutil.which("g++")
    simple = tmp_path / "simple"
    simple.write_text(f'#!/bin/sh\nfor a in "$@"; do [ "$a" = -fopenmp ] && exit 1; done\nexec {real} "$@"\n')
    simple.chmod(0o755)
    monkeypatch.setenv("CXX", str(simple))
    made(RULES["lion"])
    (library,) = no_kernels.iterdir()
    assert b"GOMP" not in subprocess.run(["cat", library], capture_output=True, check=True).stdout


def test_the_source_can_be_read() -> None:
    source = native.c_source(RULES["lion"], "double")
    assert "typedef double T;" in source
    assert "T(0.9) * m_slot_i" in source
