"""The rule that no pickle is ever loaded: bytes from outside become values, never code that runs."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tests.house.source import Module, imports

UNPICKLERS = {"pickle", "_pickle", "pickletools", "dill", "cloudpickle", "joblib", "marshal", "shelve", "jsonpickle"}
"""Modules whose reading runs what the bytes say."""
RUNS_WHAT_IT_READS = re.compile(
    r"(^|\.)(read_pickle|unsafe_load|unsafe_load_all|full_load|full_load_all|load_with_torch_dispatch|hub\.load)$"
    r"|^yaml\.load(_all)?$"
)
TORCH_LOADS = re.compile(r"^torch\.(load|serialization\.load)$|^torch_load$")


def no_pickle_is_loaded(modules: list[Module]) -> list[str]:
    """No module that unpickles, no torch.load without weights_only=True, no numpy file with pickles in it."""
    return [violation for module in modules for violation in _loads(module)]


def _loads(module: Module) -> Iterator[str]:
    for found in imports(module, set()):
        if found.target.split(".")[0] in UNPICKLERS:
            yield f"{found}: reading a pickle runs what is in it: use JSON or safetensors"
    for node in ast.walk(module.tree):
        where = f"{module.file}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.ImportFrom) and node.module in {"torch", "torch.serialization"}:
            if any(alias.name == "load" for alias in node.names):
                yield f"{where}: write torch.load(..., weights_only=True) in full, so that this rule sees it"
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            given = {keyword.arg: keyword.value for keyword in node.keywords}
            if RUNS_WHAT_IT_READS.search(called):
                yield f"{where}: {called} runs what it reads"
            if TORCH_LOADS.search(called) and not _is(given.get("weights_only"), True):
                yield f"{where}: {called} without weights_only=True reads pickles"
            if "allow_pickle" in given and not _is(given["allow_pickle"], False):
                yield f"{where}: {called} with allow_pickle reads pickles"
            if "weights_only" in given and not _is(given["weights_only"], True):
                yield f"{where}: {called} without weights_only=True reads pickles"


def _is(node: ast.expr | None, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value
