"""`dlhpc doctor`: what it prints and with which status it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dlhpc.cli import doctor
from dlhpc.cli.main import main
from dlhpc.doctor.finding import Finding

SUBJECTS = ["Python", "g++", "packages of the core", "memory", "shared memory", "temporary folder", "accelerators"]


def test_it_looks_at_everything_and_changes_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    main(["doctor", "--json"])
    findings = json.loads(capsys.readouterr().out)
    subjects = [finding["subject"] for finding in findings]
    assert set(SUBJECTS) <= set(subjects)
    assert any(subject.startswith("port 8000") for subject in subjects)
    assert any(subject.startswith("port 8080") for subject in subjects)
    assert subjects[-1] == "registry"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("statuses", "expected"), [(["ok", "warn"], 0), (["ok", "fail", "warn"], 1)])
def test_only_a_failure_fails(
    statuses: list[str], expected: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mends = {"ok": "", "warn": "tune it", "fail": "repair it"}
    findings = [Finding(f"thing {n}", status, "as found", mends[status]) for n, status in enumerate(statuses)]
    asked = []
    monkeypatch.setattr(doctor, "check_all", lambda registry, deep: (asked.append((registry, deep)), findings)[1])
    assert main(["doctor", "--registry", "elsewhere", "--deep"]) == expected
    assert asked == [("elsewhere", True)]
    captured = capsys.readouterr()
    assert "thing 0: as found" in captured.out
    for status in statuses:
        assert mends[status] in captured.out
    assert f"{len(statuses)} checks, {statuses.count('fail')} failed, 1 warned" in captured.err


def test_deep_also_imports(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from dlhpc.doctor import software

    monkeypatch.setattr(software, "DEEP", {"numpy": "print('fine')"})
    main(["doctor", "--deep"])
    assert "import numpy: fine" in capsys.readouterr().out
