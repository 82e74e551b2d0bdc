"""Findings about Python, compilers and packages, for machines that lack them."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from dlhpc.doctor.finding import Finding
from dlhpc.doctor.software import check_imports, check_packages, check_python, check_tools


def statuses(findings: list[Finding]) -> dict[str, str]:
    return {finding.subject: finding.status for finding in findings}


def without(*missing: str, **other: str):
    def installed(name: str) -> str:
        if name in missing:
            raise PackageNotFoundError(name)
        return other.get(name) or version(name)

    return installed


def test_this_python_is_fine() -> None:
    assert statuses(list(check_python()))["Python"] == "ok"


def test_an_old_python_without_headers(tmp_path: Path) -> None:
    python, headers = check_python((3, 10, 2), tmp_path)
    assert (python.status, headers.status) == ("fail", "warn")
    assert "3.11" in python.mend
    assert "python3.10-dev" in headers.mend


def test_tools_are_found_on_the_path_or_beside_python() -> None:
    assert statuses(list(check_tools(lambda tool: f"/usr/bin/{tool}"))) == {"g++": "ok", "make": "ok", "ninja": "ok"}
    beside = list(check_tools(lambda tool: tool if tool.endswith("/ninja") else None))
    assert statuses(beside) == {"g++": "warn", "make": "warn", "ninja": "ok"}
    assert "build-essential" in beside[0].mend


def test_everything_installed_fits_what_is_declared() -> None:
    findings = list(check_packages())
    assert set(statuses(findings).values()) == {"ok"}
    assert any("ray 2.60.0" in finding.found for finding in findings)


def test_a_missing_extra_is_a_warning_that_names_the_command() -> None:
    findings = {f.subject: f for f in check_packages(without("torch", "ray"))}
    torch = findings["packages of PyTorch/DeepSpeed"]
    assert torch.status == "warn"
    assert "torch" in torch.found
    assert torch.mend == "pip install 'deep-learning-hpc-demo[torch]'"
    assert "frameworks" not in findings


def test_no_framework_at_all_fails() -> None:
    assert statuses(list(check_packages(without("torch", "jax"))))["frameworks"] == "fail"


def test_a_wrong_version_and_a_missing_core_package_fail() -> None:
    findings = {f.subject: f for f in check_packages(without("pillow", ray="2.40.0"))}
    assert findings["packages of the core"].status == "fail"
    serving = findings["packages of serving"]
    assert serving.status == "fail"
    assert "ray is 2.40.0, needs ==2.60.0" in serving.found


def test_an_uninstalled_source_tree_is_said_so(monkeypatch) -> None:
    monkeypatch.setattr("dlhpc.doctor.software.DISTRIBUTION", "no-such-distribution")
    (finding,) = check_packages()
    assert finding.status == "fail"
    assert "pip install" in finding.mend


def test_deep_imports_run_in_their_own_process() -> None:
    programs = {
        "numpy": "print('noise'); print('works well')",
        "click": "raise ImportError('libfoo.so is missing')",
        "rich": "import os; os._exit(9)",
        "no-such-package": "print('never run')",
    }
    fine, broken, killed = check_imports(programs)
    assert fine.status == "ok"
    assert "works well" in fine.found
    assert broken.status == "fail"
    assert "libfoo.so is missing" in broken.found
    assert "ended with 9" in killed.found


def test_a_hanging_import_ends() -> None:
    (finding,) = check_imports({"numpy": "import threading; threading.Event().wait()"}, timeout_s=1.0)
    assert finding.status == "fail"
    assert "no end after 1 s" in finding.found
