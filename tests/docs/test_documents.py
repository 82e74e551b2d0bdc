"""Every command and program in the documents does what it says: it is run, or another place says where it is."""

from __future__ import annotations

import json
import re
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.docs.blocks import KINDS, Block, blocks, command_lines
from tests.workspace import Workspace

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "SECURITY.md")
DOCUMENTS = [*(ROOT / name for name in PAGES), *sorted(ROOT.glob("docs/*.md"))]
LONG_S = 900.0
RUN_NOW = {"bash", "bash server", "python", "yaml", "json"}
RUN_SLOWLY = {"bash slow", "bash slow server", "python slow"}


def with_kinds(kinds: set[str]) -> list[Path]:
    return [path for path in DOCUMENTS if any(block.kind in kinds for block in blocks(path))]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_block_says_how_it_is_checked(path: Path) -> None:
    unknown = [f"{block}: {block.kind!r}" for block in blocks(path) if block.kind not in KINDS]
    assert unknown == [], f"known: {', '.join(KINDS)}"
    assert len(re.findall(r"^```", path.read_text(), re.MULTILINE)) == 2 * len(blocks(path))


@pytest.mark.server
@pytest.mark.timeout(900)
@pytest.mark.parametrize("path", with_kinds(RUN_NOW), ids=lambda path: path.name)
def test_the_document_works(path: Path, workspace: Workspace) -> None:
    with ExitStack() as servers:
        for block in blocks(path):
            if block.kind in RUN_NOW:
                _check(block, workspace, servers)


@pytest.mark.server
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("path", with_kinds(RUN_SLOWLY), ids=lambda path: path.name)
def test_the_slow_parts_of_the_document_work(path: Path, workspace: Workspace) -> None:
    with ExitStack() as servers:
        for block in blocks(path):
            if block.kind in RUN_SLOWLY:
                _check(block, workspace, servers, timeout_s=LONG_S)


def _check(block: Block, workspace: Workspace, servers: ExitStack, *, timeout_s: float = 280.0) -> None:
    print(f"{block} ({block.kind})")
    match block.kind.replace(" slow", ""):
        case "bash":
            for command in command_lines(block.text):
                workspace.succeed(command, timeout_s=timeout_s)
        case "bash server":
            (command,) = command_lines(block.text)
            servers.enter_context(workspace.server(command))
        case "python":
            (workspace.root / "example.py").write_text(block.text)
            workspace.succeed(f"python example.py # {block}")
        case "yaml":
            # Beside the shipped runs, which an example may extend.
            (workspace.root / "config" / "example.yaml").write_text(block.text)
            workspace.succeed(f"dlhpc config check config/example.yaml # {block}")
        case "json":
            json.loads(block.text)


@pytest.mark.parametrize("path", with_kinds({"bash elsewhere"}), ids=lambda path: path.name)
def test_what_is_not_run_here_is_accounted_for(path: Path) -> None:
    account = (ROOT / "docs" / "seed-coverage.md").read_text()
    missing = [
        f"{block}: {command}"
        for block in blocks(path)
        if block.kind == "bash elsewhere"
        for command in command_lines(block.text)
        if f"`{command}`" not in account
    ]
    assert missing == [], "add the command to the table of commands in docs/seed-coverage.md"


def test_the_links_between_documents_lead_somewhere() -> None:
    broken = []
    for path in DOCUMENTS:
        prose = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)[^)]*\)", prose):
            if not (path.parent / target).exists():
                broken.append(f"{path.name}: {target}")
    assert broken == []


def test_the_readme_leads_to_every_document() -> None:
    readme = (ROOT / "README.md").read_text()
    written = [path.name for path in ROOT.glob("docs/*.md")]
    assert [name for name in written if f"(docs/{name})" not in readme] == []


@pytest.mark.parametrize(
    "path", [path for path in DOCUMENTS if path.name != "seed-coverage.md"], ids=lambda path: path.name
)
def test_the_source_files_that_a_document_names_exist(path: Path) -> None:
    """Below the root, src or the package; `x` and `<verb>` stand for something else."""
    prose = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    named = set(re.findall(r"`([\w.-]+/[\w./-]*\.(?:py|ya?ml|md|sh))`", prose))
    missing = [
        name
        for name in named
        if not re.search(r"(^|[/_])x[./]", name)
        and not any((place / name).exists() for place in (ROOT, ROOT / "src", ROOT / "src" / "dlhpc"))
    ]
    assert missing == []
