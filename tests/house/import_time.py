"""The rule that nothing happens at import: no environment read, no device probe, no file, no registration."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tests.house.source import Module

EFFECTS = re.compile(
    r"^(os\.(environ|getenv|getcwd|makedirs|putenv)"
    r"|Path\.(cwd|home)"
    r"|(open|print|input)$"
    r"|subprocess\.|socket\.|tempfile\.|time\.|random\.|np\.random\."
    r"|logging\.(basicConfig|config|disable)"
    r"|signal\.signal|atexit\.|sys\.path\."
    r"|jax\.(config|devices|device_count|local_devices|default_backend|random|numpy|distributed)"
    r"|torch\.(set_|manual_seed|cuda|distributed|device_count|get_default|backends)"
    r"|deepspeed\.(init|accelerator|comm)|ray\.)"
)


def nothing_happens_at_import(modules: list[Module]) -> list[str]:
    """Statements that run at import call nothing for its effect, and read nothing from outside."""
    return [violation for module in modules for violation in _effects(module)]


def _effects(module: Module) -> Iterator[str]:
    body = [statement for statement in module.tree.body if not _is_main_guard(statement)]
    for node in _executed_at_import(body):
        # A reference such as `clock=time.monotonic` is no effect; reading the environment needs no call to be one.
        text = _dotted(node.func) if isinstance(node, ast.Call) else _dotted(node)
        if EFFECTS.match(text) if isinstance(node, ast.Call) else text == "os.environ":
            yield f"{module.file}:{getattr(node, 'lineno', 0)}: {text} runs at import"
    for statement in _statements(body):
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
            yield f"{module.file}:{statement.lineno}: {ast.unparse(statement)[:60]} runs at import for its effect"


def _is_main_guard(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and ast.unparse(statement.test) == "__name__ == '__main__'"


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that importing executes: also those of classes, conditions, loops and try blocks."""
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        yield statement
        if isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(statement.test):
            continue
        for name in ("body", "orelse", "finalbody"):
            yield from _statements(getattr(statement, name, []))


def _executed_at_import(body: list[ast.stmt]) -> Iterator[ast.AST]:
    """Expressions that importing evaluates: everything but the bodies of functions and lambdas."""
    pending: list[ast.AST] = list(body)
    while pending:
        node = pending.pop()
        yield node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            pending += [*node.decorator_list, *node.args.defaults, *[d for d in node.args.kw_defaults if d]]
        elif isinstance(node, ast.AnnAssign):
            pending += [node.value] if node.value else []
        elif not isinstance(node, ast.Lambda | ast.Import | ast.ImportFrom):
            pending += list(ast.iter_child_nodes(node))


def _dotted(node: ast.AST) -> str:
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=attr):
            inner = _dotted(value)
            return f"{inner}.{attr}" if inner else ""
    return ""
