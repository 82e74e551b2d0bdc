"""The rule that what exists for Flax exists for PyTorch, under the same names."""

from __future__ import annotations

import re

from tests.house.source import Module, public_definitions

TORCH_NAMES = ("torch_{}", "torch_deepspeed_{}")
FRAMEWORK = re.compile(r"^(Flax|TorchDeepSpeed|Torch|flax_|torch_deepspeed_|torch_)")


def twins_stand_side_by_side(modules: list[Module]) -> list[str]:
    """flax_X.py and torch_X.py (or torch_deepspeed_X.py) in one folder, with the same public names."""
    by_path = {module.path: module for module in modules}
    violations, paired = [], set()
    for module in modules:
        if not module.stem.startswith("flax_"):
            continue
        topic = module.stem.removeprefix("flax_")
        twins = [module.path.with_name(f"{name.format(topic)}.py") for name in TORCH_NAMES]
        twin = next((by_path[path] for path in twins if path in by_path), None)
        if twin is None:
            violations.append(f"{module.file}: no {twins[0].name} beside it")
            continue
        paired.add(twin.path)
        mine, its = _names(module), _names(twin)
        if mine != its:
            only = ", ".join(sorted(mine ^ its))
            violations.append(f"{module.file}: other public names than {twin.path.name}: {only}")
    for module in modules:
        if module.stem.startswith("torch_") and module.path not in paired:
            violations.append(f"{module.file}: no flax twin beside it")
    return violations


def _names(module: Module) -> set[str]:
    return {FRAMEWORK.sub("", node.name) for node in public_definitions(module)}
