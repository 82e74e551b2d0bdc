import json

import pytest

from dlhpc.backends import load_backend
from dlhpc.cli.main import main
from dlhpc.registry import promotion
from dlhpc.registry.store import Registry
from tests.registry.samples import sample
from tests.registry.subjects import Stage

SLOW = sample(1)


@pytest.fixture
def stage(monkeypatch):
    stage = Stage({SLOW.digest: 1.5})
    monkeypatch.setattr(promotion, "process_starter", lambda registry: stage)
    return stage


@pytest.fixture
def store(stage):
    """In the default place: `registry` in the working folder."""
    store = Registry("registry", load_backend)
    store.publish(sample(0), "pets", alias="production")
    store.publish(SLOW, "pets")
    return store


@pytest.fixture
def dlhpc(capsys):
    def run(*arguments, status=0):
        assert main(["registry", *map(str, arguments)]) == status
        return capsys.readouterr()

    return run


def test_benchmark_measures_and_benchmarks_tells_it_again(store, stage, dlhpc):
    said = dlhpc(
        "benchmark", "pets:1", "--backend", "torch", "--batch-sizes", "4", "--rounds", "3", "--processes", "1"
    ).out
    assert ["torch", "4", "uint8", "8", "16", "500", "400", "50", "21"] in [line.split() for line in said.splitlines()]
    assert "torch on cpu, 2 threads: load 2 ms, the first 90 ms after 900 ms of imports" in said
    again = dlhpc("benchmarks", "pets:1").out
    assert again.startswith("1. pets:1, 20")
    assert said.split("\n", 1)[1] == again.split("\n", 1)[1]
    assert "benchmark of torch, " in dlhpc("history", "pets:1").out


def test_each_option_of_the_plan_changes_it(store, stage, dlhpc):
    dlhpc("benchmark", "pets:1")
    (record,) = store.benchmarks("pets:1")
    assert {(cell.backend, cell.batch_size, cell.dtype) for cell in record.cells} == {
        ("flax", size, "uint8") for size in (1, 8, 32)
    }
    assert len(record.cells[0].rounds) == 15
    assert len(record.cells[0].first_calls_ms) == 3
    options = ["--backend", "torch", "--batch-sizes", 2, "--dtype", "float32", "--rounds", 2, "--calls", 9]
    options += ["--processes", 2]
    found = json.loads(dlhpc("benchmark", "pets:1", *options, "--json").out)
    (cell,) = found[0]["cells"]
    assert (cell["backend"], cell["batch_size"], cell["dtype"]) == ("torch", 2, "float32")
    assert [each["calls"] for each in cell["rounds"]] == [9] * 4
    assert len(cell["first_calls_ms"]) == 2
    assert found[0]["number"] == 2
    assert "and end" in dlhpc("benchmark", "pets:1", "--seconds", "inf", status=2).err


def test_several_versions_share_a_session(store, dlhpc):
    first, second = json.loads(dlhpc("benchmark", "pets:1", "pets:2", "--json").out)
    assert first["session"] == second["session"]
    assert [first["version"], second["version"]] == [sample(0).digest, SLOW.digest]


def test_benchmarks_of_a_version_that_was_never_measured(store, dlhpc):
    assert dlhpc("benchmarks", "pets").out == "pets was never measured; to do so: dlhpc registry benchmark pets\n"
    assert json.loads(dlhpc("benchmarks", "pets", "--json").out) == []


def test_compare_shows_what_is_known(store, stage, dlhpc):
    said = dlhpc("compare", "pets:1", "pets:2").out
    assert ["accuracy", "0.5", "0.501", "+0.001", "+0.20%"] in [line.split() for line in said.splitlines()]
    assert "to do so: dlhpc registry compare pets:1 pets:2 --measure" in said
    assert stage.diary == []
    said = dlhpc("compare", "pets:1", "pets:2", "--measure", "--batch-sizes", "1").out
    assert "p50[flax,1,uint8]" in said
    assert "+50.00%" in said
    assert said.startswith("measured in turns on ")
    assert "to do so" not in said


def test_compare_fails_with_the_reason(store, dlhpc):
    said = dlhpc("compare", "pets:1", "pets:2", "--fail-if", "p50>+10%", "--fail-if", "accuracy<-0.5pt", status=1)
    assert "failed: p50>+10% (p50[flax,1,uint8] +50%" in said.out
    assert "passed: accuracy<-0.5pt (accuracy +0.1pt)" in said.out
    assert said.err.startswith("error: pets:2 against pets:1:\n  p50>+10% failed (p50[flax,1,uint8] +50%")
    found = json.loads(dlhpc("compare", "pets:1", "pets:2", "--fail-if", "p50>+10%", "--json", status=1).out)
    assert found["gates"][0]["outcome"] == "failed"
    assert dlhpc("compare", "pets:1", "pets:2", "--fail-if", "p50>+60%").err == ""


def test_compare_never_passes_what_it_cannot_answer(store, stage, dlhpc):
    said = dlhpc("compare", "pets:1", "pets:2", "--no-measure", "--fail-if", "p50>+10%", status=2)
    assert "gates that cannot be answered:\n  p50>+10% unmeasurable" in said.err
    assert "dlhpc registry compare pets:1 pets:2 --measure" in said.err
    assert stage.diary == []
    assert "gate, column 7: a percentage" in dlhpc("compare", "pets:1", "pets", "--fail-if", "p50>10%", status=2).err


def test_compare_says_what_is_not_comparable(store, dlhpc, monkeypatch):
    dlhpc("benchmark", "pets:1", "--batch-sizes", "1")
    abacus = {"processor": "abacus", "cores": 1, "memory_gib": 1, "system": "wood"}
    monkeypatch.setattr("dlhpc.registry.benchmark.hardware", lambda: abacus)
    dlhpc("benchmark", "pets:2", "--batch-sizes", "1")
    said = dlhpc("compare", "pets:1", "pets:2").out
    assert (
        "not compared: load[flax], p50[flax,1,uint8], p99[flax,1,uint8] and 3 more: measured on other hardware" in said
    )


def test_promote_moves_or_refuses(store, dlhpc):
    said = dlhpc("promote", "pets:2", "production", status=1)
    assert "failed: p50>+25%" in said.out
    assert f"error: sha256:{SLOW.digest[:12]} is not promoted to pets@production:\n  p50>+25% failed" in said.err
    assert "--override --note WHY" in said.err
    assert store.resolve("pets@production") == sample(0).digest
    refused = json.loads(dlhpc("promote", "pets:2", "production", "--json", status=1).out)
    assert (refused["promoted"], refused["move"]) == (False, None)
    assert "needs a note" in dlhpc("promote", "pets:2", "production", "--override", status=2).err
    said = dlhpc("promote", "pets:2", "production", "--fail-if", "p50>+60%", "--note", "agreed").out
    assert said.endswith("pets@production is pets:2 (before: pets:1)\n")
    history = dlhpc("history", "pets@production").out
    assert "agreed [gates: p50>+60% passed (p50[flax,1,uint8] +50%)]" in history
    assert dlhpc("promote", "pets:2", "production").out == "pets@production is pets:2 already\n"


def test_promote_by_override(store, dlhpc):
    moved = json.loads(
        dlhpc("promote", "pets:2", "production", "--override", "--note", "hot fix", "--batch-sizes", "2", "--json").out
    )
    assert moved["promoted"]
    assert moved["move"]["note"].startswith("hot fix [gates overridden: ")
    assert "p50[flax,2,uint8]" in moved["move"]["note"]


def test_gates_in_a_file(store, dlhpc, tmp_path):
    file = tmp_path / "gates.txt"
    file.write_text("# what production asks for\n\n  p50>+60%   # half as slow again is agreed\nsize>+1%\n")
    said = dlhpc("promote", "pets:2", "production", "--gates", file, "--fail-if", "accuracy<0.9", status=1)
    assert "passed: p50>+60%" in said.out
    assert "accuracy<0.9 failed (accuracy 0.501)" in said.err
    dlhpc("promote", "pets:2", "production", "--gates", file)
    file.write_text("# nothing\n")
    assert "no gates in it" in dlhpc("promote", "pets:1", "production", "--gates", file, status=2).err
    file.write_bytes(b"\xff")
    assert "no text in UTF-8" in dlhpc("promote", "pets:1", "production", "--gates", file, status=2).err
    assert "no such file of gates" in dlhpc("promote", "pets:1", "production", "--gates", "gone", status=4).err


def test_promote_without_measuring(store, stage, dlhpc):
    assert "cannot be answered" in dlhpc("promote", "pets:2", "production", "--no-measure", status=2).err
    assert stage.diary == []


def test_the_help_tells_the_default_gates(dlhpc):
    said = dlhpc("promote", "--help").out
    assert all(gate in said for gate in promotion.DEFAULT_GATES)
