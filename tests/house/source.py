"""The package as text: its modules, what each imports (also inside functions), and what each defines."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "dlhpc"


@dataclass(frozen=True)
class Module:
    """One source file, parsed."""

    name: str
    path: Path
    text: str
    tree: ast.Module

    @property
    def file(self) -> str:
        """The path below the package's folder: the way rules name files."""
        parts = self.path.parts
        return "/".join(parts[len(parts) - 1 - parts[::-1].index(PACKAGE) :])

    @property
    def stem(self) -> str:
        return self.path.stem

    @property
    def is_package(self) -> bool:
        return self.stem == "__init__"


@dataclass(frozen=True)
class Import:
    """`importer` (at `line`) needs `target`: a module's full name, as exact as the text allows."""

    importer: Module
    target: str
    line: int

    def __str__(self) -> str:
        return f"{self.importer.file}:{self.line}: imports {self.target}"


def read_package(folder: Path) -> list[Module]:
    """Every module below `folder`, which is the package's own folder."""
    return [_read(folder, path) for path in sorted(folder.rglob("*.py"))]


def _read(folder: Path, path: Path) -> Module:
    parts = [PACKAGE, *path.relative_to(folder).with_suffix("").parts]
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    text = path.read_text()
    return Module(name, path, text, ast.parse(text, filename=str(path)))


def imports(module: Module, known: set[str]) -> Iterator[Import]:
    """All imports of a module: at the top, inside functions, for types only, and by importlib with a literal name."""
    for node in ast.walk(module.tree):
        match node:
            case ast.Import(names=names):
                for alias in names:
                    yield Import(module, alias.name, node.lineno)
            case ast.ImportFrom(module=source, names=names, level=level):
                origin = _origin(module, source, level)
                for alias in names:
                    inner = f"{origin}.{alias.name}"
                    yield Import(module, inner if inner in known else origin, node.lineno)
            case ast.Call(args=[ast.Constant(value=str(target)), *_]) if is_dynamic_import(node):
                yield Import(module, target, node.lineno)


def is_dynamic_import(node: ast.Call) -> bool:
    """Whether the call is importlib.import_module(...) or __import__(...)."""
    match node.func:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name in {"import_module", "__import__"}
    return False


def _origin(module: Module, source: str | None, level: int) -> str:
    if level == 0:
        return source or ""
    package = module.name if module.is_package else module.name.rpartition(".")[0]
    for _ in range(level - 1):
        package = package.rpartition(".")[0]
    return f"{package}.{source}" if source else package


def public_definitions(module: Module) -> list[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """Functions and classes at the top of a module whose names have no leading underscore."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return [node for node in module.tree.body if isinstance(node, kinds) and not node.name.startswith("_")]


def functions(module: Module) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function and method, nested ones too."""
    return [node for node in ast.walk(module.tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
