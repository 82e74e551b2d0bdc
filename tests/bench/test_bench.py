"""The benchmarks run, measure what they say, and turn into a page. No timing is asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from dlhpc.bench import flax_bare, optimizers, report, torch_bare
from dlhpc.bench.loop import Recorded, _pairs
from dlhpc.bench.machine import describe
from dlhpc.cli.bench import command
from dlhpc.errors import NotFoundError

ROOT = Path(__file__).parents[2]
SMALL = ["--workload", "10M", "--calls", "3", "--batch-sizes", "2", "--rounds", "2", "--steps", "10", "--hidden", "8"]


@pytest.fixture(autouse=True)
def _tiny_optimizers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(optimizers.WORKLOADS, "10M", [100, 3])


def test_all_suites_measure_every_backend(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, [*SMALL, "--out", str(tmp_path), "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert {(row["backend"], row["model"]) for row in found["inference"]} == {
        ("flax", "MLP"),
        ("flax", "CNN"),
        ("torch", "MLP"),
        ("torch", "CNN"),
    }
    assert all(0 < row["p50_ms"] <= row["p99_ms"] and row["calls"] == 3 for row in found["inference"])
    assert [(row["backend"], row["hidden_sizes"], len(row["ratios"])) for row in found["loop"]] == [
        ("flax", [8], 2),
        ("torch", [8], 2),
    ]
    rows = {(row["backend"], row["optimizer"], row["implementation"]) for row in found["optimizers"]}
    assert {("torch", "adamw", "torch fused"), ("flax", "adan", "optax"), ("torch", "sophia", "dlhpc")} <= rows
    assert {row["bytes_per_element"] for row in found["optimizers"] if row["optimizer"] == "lion"} == {20}
    assert ("torch", "lion", optimizers.DISPATCH) in rows
    assert {row["temporary_bytes_per_element"] is None for row in found["optimizers"] if row["backend"] == "torch"} == {
        True
    }
    assert any(row["temporary_bytes_per_element"] is not None for row in found["optimizers"])
    assert all(row["over_limit"] > 0 for row in found["optimizers"])
    assert {row["times_ours"] for row in found["optimizers"] if row["implementation"] == "dlhpc"} == {1.0}
    saved = json.loads((tmp_path / "loop.json").read_text())
    assert saved["results"] == found["loop"]
    assert saved["command"].startswith("dlhpc bench --backend flax --backend torch --batch-sizes 2")
    assert "--out" not in saved["command"]
    page = report.page(tmp_path)
    assert "## inference" in page
    assert "| flax | CNN | 2 |" in page


def test_table_names_what_was_measured() -> None:
    result = CliRunner().invoke(command, ["inference", "--backend", "flax", *SMALL], catch_exceptions=False)
    assert result.exit_code == 0
    assert "examples_per_s" in result.stdout


@pytest.mark.parametrize("module", [flax_bare, torch_bare])
def test_bare_loops_learn(module: object) -> None:
    pairs = _pairs(1) * 60
    loop = module.bare_loop([784, 16, 10], 1e-2)  # type: ignore[attr-defined]
    assert loop(pairs) < 0.1


def test_recorded_batches_repeat_and_count() -> None:
    batches = list(Recorded(_pairs(3)).stream(2, 5))
    assert [batch.counts.tolist() for batch in batches] == [[128]] * 3
    assert np.array_equal(batches[1].inputs[0], _pairs(3)[0][0])


def test_machine_is_described() -> None:
    machine = describe()
    assert machine["cores"]
    assert machine["numpy"] == np.__version__


def test_a_report_of_nothing_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="run_benchmarks"):
        report.page(tmp_path)


def test_the_seeds_commands(tmp_path: Path) -> None:
    run = [sys.executable, "benchmarks/run_benchmarks.py", "inference", "--batch-sizes", "1", "2"]
    quick = ["--backend", "flax", "--calls", "2", "--out", str(tmp_path)]
    subprocess.run([*run, *quick], cwd=ROOT, check=True, capture_output=True)
    page = tmp_path / "page.md"
    make = [sys.executable, "benchmarks/generate_report.py", "--results", str(tmp_path), "--out", str(page)]
    subprocess.run(make, cwd=ROOT, check=True, capture_output=True)
    assert "| flax | MLP | 1 |" in page.read_text()
    empty = [*make[:2], "--results", str(tmp_path / "none"), "--out", str(page)]
    failed = subprocess.run(empty, cwd=ROOT, capture_output=True, text=True, check=False)
    assert failed.returncode == 4
    assert "run_benchmarks" in failed.stderr
