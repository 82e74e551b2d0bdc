"""The house rules of ARCHITECTURE.md. Each takes the modules and gives its violations, one line each."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase

from tests.house.source import PACKAGE, Import, Module, functions, imports, is_dynamic_import, public_definitions

LEVELS: list[tuple[str, list[str]]] = [
    ("L0", ["errors", "files", "holders"]),
    ("L1", ["spec", "draws"]),
    ("L2", ["weights", "data", "optimizers", "monitoring"]),
    ("L3", ["ports"]),
    ("L4", ["models", "optimizers.groups", "optimizers.gradients", "optimizers.flax_*", "optimizers.torch_*"]),
    ("L5", ["engines"]),
    ("L6", ["training", "registry", "serving"]),
    ("L7 backends", ["backends", "client"]),
    ("L7 publication", ["publication"]),
    ("L7 entry", ["api", "doctor"]),
    (
        "L7 processes",
        ["serving.serve_ray", "serving.versions", "serving.compute", "serving.deviation", "registry.benchmark_worker"],
    ),
    ("L8 tools", ["bench"]),
    ("L8 command line", ["cli"]),
]
"""From the ground up; a unit is a top-level module or package, or modules of it that a longer pattern names.
Units import lower levels and themselves; units of one level are strangers."""

FENCES: dict[str, list[str]] = {
    "jax": ["*/flax_*.py"],
    "jaxlib": ["*/flax_*.py"],
    "flax": ["*/flax_*.py"],
    "optax": ["*/flax_*.py"],
    "torch": ["*/torch_*.py"],
    "deepspeed": ["*/torch_*.py"],
    "ray": ["dlhpc/serving/serve_ray.py"],
    "yaml": ["dlhpc/spec/load*.py"],
    "safetensors": ["dlhpc/weights/file.py"],
    "click": ["dlhpc/cli/*.py"],
    "cryptography": ["dlhpc/registry/signing.py"],
    "securesystemslib": ["dlhpc/registry/signing.py"],
    "onnx": ["*/onnx_*.py"],
    "onnxruntime": ["*/onnx_*.py"],
    "onnxscript": ["*/onnx_*.py"],
    "multipart": ["dlhpc/serving/form_data.py"],
    "redis": ["dlhpc/serving/guards/redis_rates.py"],
    "fsspec": ["dlhpc/registry/stores/object_store.py"],
}
"""Library -> the only files that may import it."""

MAY_IMPORT_BY_COMPUTED_NAME = {
    "dlhpc/__init__.py",
    "dlhpc/backends.py",
    "dlhpc/bench/loop.py",
    "dlhpc/bench/optimizers.py",
    "dlhpc/cli/main.py",
}
FACADES: dict[str, set[str]] = {
    PACKAGE: {"dlhpc.api", "dlhpc.backends", "dlhpc.client", "dlhpc.optimizers"},
    "dlhpc.optimizers": {"dlhpc.optimizers.flax_optimizers", "dlhpc.optimizers.torch_optimizers"},
}
"""Packages that open doors upwards by a lazy __getattr__ -> the homes of what they offer."""
CLIENT_NEEDS = {"dlhpc.client", "dlhpc.spec", "dlhpc.errors"}
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
BAD_NAMES = re.compile(r"(^|_)utils?$|(Manager|Helper)$|^process$", re.ASCII)
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b|NotImplementedError")


def all_imports(modules: Iterable[Module]) -> list[Import]:
    modules = list(modules)
    known = {module.name for module in modules}
    return [found for module in modules for found in imports(module, known)]


def _within(name: str, prefixes: Iterable[str]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def place(name: str) -> tuple[int, str] | None:
    """(row in LEVELS, unit) of a module's full name; the longest pattern that fits counts. None: nowhere."""
    inner = name.removeprefix(f"{PACKAGE}.")
    fits = [
        (pattern.count(".") + 1, row, pattern)
        for row, (_, patterns) in enumerate(LEVELS)
        for pattern in patterns
        if fnmatchcase(inner, pattern) or fnmatchcase(inner, f"{pattern}.*")
    ]
    if not fits:
        return None
    _, row, _pattern = max(fits)
    return row, inner.split(".")[0]


def every_module_has_a_level(modules: list[Module]) -> list[str]:
    return [
        f"{module.file}: has no level; add it to LEVELS in tests/house/rules.py and to ARCHITECTURE.md"
        for module in modules
        if module.name != PACKAGE and place(module.name) is None
    ]


def imports_point_down(modules: list[Module]) -> list[str]:
    """Lower levels only; units of one level are strangers; the facade reaches only its homes."""
    return list(_upward(modules))


def _upward(modules: list[Module]) -> Iterator[str]:
    for found in all_imports(modules):
        if not _within(found.target, [PACKAGE]):
            continue
        homes = FACADES.get(found.importer.name)
        if homes is not None:
            if found.target != PACKAGE and not _within(found.target, homes):
                yield f"{found}: the facade offers names of {', '.join(sorted(homes))} only"
            continue
        if found.target == PACKAGE:
            if not _takes_only_the_version(found):
                yield f"{found}: inside the package, import from the module that defines the name"
            continue
        here, there = place(found.importer.name), place(found.target)
        if here is None or there is None or (here[1] == there[1] and here[0] >= there[0]):
            continue
        if here[0] < there[0]:
            yield f"{found}: {LEVELS[there[0]][0]} lies above {LEVELS[here[0]][0]}"
        elif here[0] == there[0]:
            yield f"{found}: both are {LEVELS[here[0]][0]}, and units of one level are strangers"


def _takes_only_the_version(found: Import) -> bool:
    return any(
        isinstance(node, ast.ImportFrom)
        and node.lineno == found.line
        and [alias.name for alias in node.names] == ["__version__"]
        for node in ast.walk(found.importer.tree)
    )


def libraries_stay_behind_their_fences(modules: list[Module]) -> list[str]:
    violations = []
    for found in all_imports(modules):
        allowed = FENCES.get(found.target.split(".")[0])
        if allowed is not None and not any(fnmatchcase(found.importer.file, pattern) for pattern in allowed):
            violations.append(f"{found}: only {', '.join(allowed)} may")
    return violations


def nobody_imports_an_engine_by_name(modules: list[Module]) -> list[str]:
    """Engines and models are reached through load_backend; engines import models, and each package itself."""
    violations = []
    for found in all_imports(modules):
        framework = re.match(r"dlhpc\.(engines|models)\.", found.target)
        if framework is None:
            continue
        importer = found.importer.name
        if not _within(importer, ["dlhpc.engines", "dlhpc.models", "dlhpc.backends"]):
            violations.append(f"{found}: ask dlhpc.backends.load_backend for it")
    return violations


def frameworks_do_not_mix(modules: list[Module]) -> list[str]:
    """A flax_* file never imports a torch_* file, nor the reverse."""
    violations = []
    for found in all_imports(modules):
        target = found.target.rpartition(".")[2]
        for mine, other in (("flax_", "torch_"), ("torch_", "flax_")):
            if _within(found.target, [PACKAGE]) and found.importer.stem.startswith(mine) and target.startswith(other):
                violations.append(f"{found}: a {mine}* file knows nothing of {other}* files")
    return violations


def names_are_imported_literally(modules: list[Module]) -> list[str]:
    """import_module of a computed name would hide from all other rules."""
    known = ", ".join(sorted(MAY_IMPORT_BY_COMPUTED_NAME))
    return [
        f"{module.file}:{node.lineno}: imports a computed name, as only {known} may"
        for module in modules
        if module.file not in MAY_IMPORT_BY_COMPUTED_NAME
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call)
        and is_dynamic_import(node)
        and not (node.args and isinstance(node.args[0], ast.Constant))
    ]


def the_client_needs_only_spec_and_errors(modules: list[Module]) -> list[str]:
    return [
        f"{found}: the client may be installed alone and imports {', '.join(sorted(CLIENT_NEEDS))} only"
        for found in all_imports(modules)
        if _within(found.importer.name, ["dlhpc.client"])
        and _within(found.target, [PACKAGE])
        and not _within(found.target, CLIENT_NEEDS)
    ]


def no_import_circles(modules: list[Module]) -> list[str]:
    """No module needs itself by way of others; imports for types and inside functions count."""
    graph: dict[str, set[str]] = defaultdict(set)
    known = {module.name for module in modules} - {PACKAGE}
    for found in all_imports(modules):
        if found.target in known and found.importer.name in known and found.target != found.importer.name:
            graph[found.importer.name].add(found.target)
    finished: set[str] = set()
    circles: list[str] = []

    def visit(name: str, trail: tuple[str, ...]) -> None:
        if name in trail:
            circles.append(" -> ".join([*trail[trail.index(name) :], name]))
        elif name not in finished:
            for target in sorted(graph[name]):
                visit(target, (*trail, name))
            finished.add(name)

    for name in sorted(known):
        visit(name, ())
    return circles


def files_and_functions_are_small(modules: list[Module]) -> list[str]:
    violations = []
    for module in modules:
        lines = module.text.count("\n")
        if lines > MAX_FILE_LINES:
            violations.append(f"{module.file}: {lines} lines, more than {MAX_FILE_LINES}")
        for function in functions(module):
            assert function.end_lineno is not None
            length = function.end_lineno - function.lineno + 1
            if length > MAX_FUNCTION_LINES:
                where = f"{module.file}:{function.lineno}: {function.name}"
                violations.append(f"{where} has {length} lines, more than {MAX_FUNCTION_LINES}")
    return violations


def public_things_are_documented(modules: list[Module]) -> list[str]:
    undocumented = [f"{module.file}:1: no docstring" for module in modules if not ast.get_docstring(module.tree)]
    return undocumented + [
        f"{module.file}:{node.lineno}: {node.name} has no docstring"
        for module in modules
        for node in public_definitions(module)
        if not ast.get_docstring(node) and not _is_click_command(node)
    ]


def _is_click_command(node: ast.AST) -> bool:
    """A command whose help is given to the decorator needs no docstring too."""
    decorators = getattr(node, "decorator_list", [])
    return any(keyword.arg == "help" for d in decorators if isinstance(d, ast.Call) for keyword in d.keywords)


def names_are_terms_of_the_field(modules: list[Module]) -> list[str]:
    found = [f"{module.file}: call it by what it holds" for module in modules if BAD_NAMES.search(module.stem)]
    return found + [
        f"{module.file}:{node.lineno}: {node.name}: call it by what it does"
        for module in modules
        for node in public_definitions(module)
        if BAD_NAMES.search(node.name)
    ]


def nothing_is_unfinished(modules: list[Module]) -> list[str]:
    """No TODO, no `pass`, no function without a body outside protocols and overloads."""
    return [violation for module in modules for violation in _unfinished(module)]


def _unfinished(module: Module) -> Iterator[str]:
    for number, line in enumerate(module.text.splitlines(), 1):
        if UNFINISHED.search(line):
            yield f"{module.file}:{number}: unfinished: {line.strip()}"
    declarations = {
        id(inner)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ClassDef) and any("Protocol" in ast.unparse(base) for base in node.bases)
        for inner in node.body
    }
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Pass):
            yield f"{module.file}:{node.lineno}: `pass`: say what happens instead (contextlib.suppress, a value)"
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and id(node) not in declarations:
            last = node.body[-1]
            is_dots = isinstance(last, ast.Expr) and isinstance(last.value, ast.Constant) and last.value.value is ...
            overload = any(ast.unparse(d).endswith("overload") for d in node.decorator_list)
            if is_dots and not overload:
                yield f"{module.file}:{node.lineno}: {node.name} has no body"
