"""The rule that what exists for Flax exists for PyTorch, under the same names.

A file that only its own package imports may be one framework's own affair. Of the others each must have its twin;
models define the same public names, and both twins define what framework-neutral code takes from either.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict

from tests.house.source import PACKAGE, Module, imports, public_definitions

FILES = re.compile(r"^(flax|torch_deepspeed|torch)_(.+)$")
FRAMEWORK = re.compile(r"^(Flax|TorchDeepSpeed|Torch|flax_|torch_deepspeed_|torch_)")
REACHED_BY_COMPUTED_NAME = {"engines/flax_backend.py": "BACKEND", "engines/torch_backend.py": "BACKEND"}


def twins_stand_side_by_side(modules: list[Module]) -> list[str]:
    """flax_X.py and torch_X.py (or torch_deepspeed_X.py) stand in one folder and offer the same."""
    twins: dict[tuple[str, str], dict[str, Module]] = defaultdict(dict)
    for module in modules:
        if fits := FILES.match(module.stem):
            framework, topic = fits.groups()
            twins[module.name.rpartition(".")[0], topic][framework.partition("_")[0]] = module
    reached = _reached_names(modules)
    violations = []
    for (package, topic), pair in sorted(twins.items()):
        if not any(module.name in reached for module in pair.values()):
            continue
        wanted = {name for module in pair.values() for name in reached[module.name]}
        if package == f"{PACKAGE}.models":
            wanted |= {name for module in pair.values() for name in _public(module)}
        for framework in ("flax", "torch"):
            if framework not in pair:
                violations.append(
                    f"{next(iter(pair.values())).file}: {package} has no {framework}_{topic}.py beside it"
                )
            elif missing := wanted - _defined(pair[framework]):
                violations.append(f"{pair[framework].file}: lacks what its twin offers: {', '.join(sorted(missing))}")
    return violations


def _reached_names(modules: list[Module]) -> dict[str, set[str]]:
    """Framework module that other packages import -> its names that are used by files of no framework."""
    known = {module.name for module in modules}
    reached: dict[str, set[str]] = defaultdict(set)
    for module in modules:
        if names := REACHED_BY_COMPUTED_NAME.get(module.file.removeprefix(f"{PACKAGE}/")):
            reached[module.name].add(names)
        for found in imports(module, known):
            if not FILES.match(found.target.rpartition(".")[2]) or found.target not in known:
                continue
            if found.target.rpartition(".")[0] != module.name.rpartition(".")[0]:
                neutral = FILES.match(module.stem) is None
                reached[found.target] |= _used(module, found.target) if neutral else set()
    return reached


def _used(importer: Module, target: str) -> set[str]:
    """Names of `target` that the importer imports or takes as attributes."""
    stem = target.rpartition(".")[2]
    used = set()
    for node in ast.walk(importer.tree):
        match node:
            case ast.ImportFrom(module=source, names=names) if source == target:
                used |= {alias.name for alias in names}
            case ast.Attribute(value=ast.Name(id=name), attr=attr) if name == stem:
                used.add(attr)
    return {FRAMEWORK.sub("", name) for name in used}


def _public(module: Module) -> set[str]:
    return {FRAMEWORK.sub("", node.name) for node in public_definitions(module)}


def _defined(module: Module) -> set[str]:
    defined = set()
    for node in module.tree.body:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                defined.add(name)
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                defined.add(name)
    return {FRAMEWORK.sub("", name) for name in defined}
