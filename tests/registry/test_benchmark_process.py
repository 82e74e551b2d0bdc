import signal

import pytest

from dlhpc.api import Registry
from dlhpc.errors import DlhpcError, NotFoundError
from dlhpc.registry.benchmark import BenchmarkPlan
from dlhpc.registry.benchmark_process import WorkerProcess
from tests.registry.samples import sample


def test_both_frameworks_are_measured_for_real(tmp_path):
    registry = Registry(tmp_path / "registry")
    registry.publish(sample(0), "pets")
    plan = BenchmarkPlan(batch_sizes=(1, 3), dtypes=("uint8", "float32"), processes=1, rounds=1, calls=1)
    (record,) = registry.benchmark("pets", plan=plan)
    assert [process.backend for process in record.processes] == ["flax", "torch"]
    for process in record.processes:
        assert (process.device, process.parity < 1e-6) == ("cpu", True)
        assert {"python", "numpy"} < set(process.versions)
    assert "jax" not in record.processes[1].versions
    assert [(cell.backend, cell.batch_size, cell.dtype) for cell in record.cells] == [
        (backend, size, dtype) for backend in ("flax", "torch") for size in (1, 3) for dtype in ("uint8", "float32")
    ]
    assert all(cell.rounds[0].calls == 1 for cell in record.cells)
    assert registry.benchmarks("pets") == (record,)


def test_what_keeps_a_version_from_being_loaded_is_told(tmp_path):
    registry = Registry(tmp_path / "registry")
    registry.publish(sample(0), "pets")
    process = WorkerProcess(str(registry.root), "ab" * 32, "flax")
    with pytest.raises(NotFoundError, match="no version sha256:abab"):
        process.began()
    process.close()


def test_a_process_that_is_killed_is_named(tmp_path):
    process = WorkerProcess(str(tmp_path), "ab" * 32, "torch")
    process._process.send_signal(signal.SIGKILL)
    with pytest.raises(
        DlhpcError, match=r"measures sha256:abababababab in torch was killed by SIGKILL; the system may"
    ):
        process.began()
    with pytest.raises(DlhpcError, match="killed by SIGKILL"):
        process.load()
    process.close()


def test_the_last_words_of_a_process_that_fails_are_repeated(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    package = tmp_path / "dlhpc"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('this build of dlhpc is broken')")
    process = WorkerProcess(str(tmp_path), "ab" * 32, "torch")
    with pytest.raises(DlhpcError, match=r"(?s)ended with status 1; it said last:.*this build of dlhpc is broken"):
        process.began()
    process.close()
