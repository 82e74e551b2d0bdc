"""The comparison of servers counts, pairs and ratios what it should; with real servers in the slow group."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from dlhpc.bench import contenders, report, serving, serving_stages
from dlhpc.bench.contenders import BARE, OURS, PEERS, PEERS_FOLDER
from dlhpc.bench.serving import Measured, Plan, ServingResult
from dlhpc.bench.serving_stages import GuardResult, StageResult
from dlhpc.cli.bench import CONTENDERS, command
from dlhpc.errors import NotFoundError
from dlhpc.spec.model import MLPSpec

ROOT = Path(__file__).parents[2]
TINY = MLPSpec(num_classes=10, input_shape=(8, 8, 1), hidden_sizes=(8,))


def rounds(*rates: float) -> list[Measured]:
    return [Measured(rate, 1.0, 2.0, 1000 / rate, 1 / rate, 0, 0.1) for rate in rates]


def test_ratios_are_medians_of_ratios_within_a_round() -> None:
    found = {BARE: rounds(100.0, 400.0, 300.0), OURS: rounds(150.0, 200.0, 600.0)}
    bare, ours = serving._results("m", "32 clients", found)
    assert (bare.throughput_ratio, bare.cpu_ratio, bare.p99_ratio) == (1.0, 1.0, 1.0)
    assert (ours.requests_per_s, ours.throughput_ratio, ours.cpu_ratio) == (200.0, 1.5, 0.667)


def test_without_the_bare_server_there_are_no_ratios() -> None:
    (ours,) = serving._results("m", "1 client", {OURS: rounds(10.0)})
    assert (ours.throughput_ratio, ours.cpu_ratio, ours.p99_ratio) == (None, None, None)


@pytest.mark.parametrize("quick", [True, False])
def test_a_plan_is_what_was_asked_for(quick: bool) -> None:
    plan = serving.plan([OURS], [4], 7, quick=quick)
    assert (plan.contenders, plan.rounds) == ((OURS,), 7)
    assert plan.clients == ((32,) if quick else (4,))
    assert serving.plan([OURS], [4], None, quick=quick).rounds == Plan().rounds


def test_every_server_begins_a_round_in_its_turn() -> None:
    class Named:
        def __init__(self, name: str) -> None:
            self.name = name

    asked: list[str] = []

    def ask(server: Named) -> Measured:
        asked.append(server.name)
        return rounds(1.0)[0]

    serving._rounds([Named(name) for name in "abc"], 2, ask)  # type: ignore[misc, arg-type]
    assert asked == ["a", "b", "c", "b", "c", "a"]


def test_the_command_knows_every_contender_and_each_has_its_program() -> None:
    assert CONTENDERS == contenders.NAMES
    assert all((ROOT / PEERS_FOLDER / program).exists() for program in PEERS.values())


def test_outside_a_checkout_peers_are_missed(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="--contender dlhpc"):
        contenders.start(BARE, tmp_path, "bench", 1, 2, tmp_path)


def test_the_stages_of_a_request_and_the_guards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(serving.MODELS, "tiny", TINY)
    monkeypatch.setattr(serving_stages, "REQUESTS", 8)
    found = serving_stages.measure_stages("tiny", serving.publish, (8, 8), {1: 1.0}, rounds=1)
    stages = [each for each in found if isinstance(each, StageResult)]
    assert next(each.stage for each in stages if each.clients == 1) == "network"
    assert {each.stage for each in stages if each.clients == 32} == {
        "parse", "decode", "guards", "queue", "forward", "encode", "application"
    }  # fmt: skip
    alone = [each for each in stages if each.stage in ("parse", "decode", "forward", "encode")]
    assert all(each.cpu_us > 0 for each in alone)
    assert sum(each.share for each in stages if each.clients == 1) == pytest.approx(1.0, abs=0.01)
    guards = [each.guard for each in found if isinstance(each, GuardResult)]
    assert guards == [
        "auth", "admission", "deadline", "rate_limits", "cache", "breaker", "queue", "all of them"
    ]  # fmt: skip


def test_kinds_of_results_are_tables_of_their_own(tmp_path: Path) -> None:
    (ours,) = serving._results("m", "1 client", {OURS: rounds(10.0)})
    report.save("serving", "dlhpc bench serving", [ours, GuardResult("m", "auth", 1.5)], tmp_path, "litserve 1")
    page = report.page(tmp_path)
    assert "| m | 1 client | dlhpc | 10.0 |" in page
    assert "| model | guard | guard_cpu_us |" in page
    assert "beside litserve 1" in page


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc")
def test_all_servers_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setitem(serving.MODELS, "digits", TINY)
    words = ["serving", "--quick", "--rounds", "1", "--json", "--out", str(tmp_path)]
    result = CliRunner().invoke(command, words, catch_exceptions=False)
    assert result.exit_code == 0
    rows = [row for row in json.loads(result.stdout)["serving"] if "server" in row]
    names = set(ServingResult.__dataclass_fields__)
    assert all(set(row) == names for row in rows)
    assert {row["server"] for row in rows if row["load"] == "32 clients"} == set(contenders.NAMES)
    assert {BARE, OURS} <= {row["server"] for row in rows if "open loop" in row["load"]}
    assert all(row["failed"] == 0 and row["cpu_ms"] > 0 and 0 < row["load_cpu"] < 1 for row in rows)
    assert "litserve" in json.loads((tmp_path / "serving.json").read_text())["machine"]["beside"]
