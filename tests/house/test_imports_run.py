"""What the rules promise, seen in running interpreters: cheap imports, no framework without need, names that exist."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import dlhpc
from dlhpc.spec.base import Spec
from dlhpc.spec.run import RunSpec
from dlhpc.spec.serving import ServingSpec
from tests.house.source import read_package

HEAVY = ["numpy", "pydantic", "jax", "flax", "torch", "deepspeed", "ray", "yaml", "click", "rich", "httpx", "PIL"]
FRAMEWORKS = ["jax", "jaxlib", "flax", "optax", "torch", "deepspeed", "ray"]
REFUSE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {blocked!r}:
            raise ImportError(f'{{name}} was imported')
sys.meta_path.insert(0, Refuse())
"""


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_dlhpc_brings_in_nothing_heavy() -> None:
    before = set(json.loads(python("import sys, json; print(json.dumps(sorted(sys.modules)))")))
    after = set(json.loads(python("import sys, json, dlhpc; print(json.dumps(sorted(sys.modules)))")))
    assert {name for name in after - before if name.startswith("dlhpc")} == {"dlhpc"}
    assert not after & set(HEAVY)


def test_everything_outside_the_fences_imports_without_any_framework(checkout: Path) -> None:
    """The driver of a server stays free of torch, and each verb's help works with any one framework missing."""
    open_modules = [
        module.name
        for module in read_package(checkout / "src" / "dlhpc")
        if not module.stem.startswith(("flax_", "torch_")) and module.file != "dlhpc/serving/serve_ray.py"
    ]
    python(
        REFUSE.format(blocked=FRAMEWORKS) + f"import importlib\nfor m in {open_modules!r}: importlib.import_module(m)"
    )


def test_the_client_imports_with_http_and_specs_only() -> None:
    blocked = [*FRAMEWORKS, "sklearn", "scipy", "matplotlib", "yaml", "click", "safetensors"]
    python(REFUSE.format(blocked=blocked) + "import dlhpc; dlhpc.Client")


def test_every_exported_name_exists_and_is_documented() -> None:
    assert set(dlhpc.__all__) <= set(dir(dlhpc))
    for name in dlhpc.__all__:
        assert getattr(dlhpc, name).__doc__, name
        assert name in (dlhpc.__doc__ or ""), f"{name} is missing in dlhpc's docstring"


@pytest.mark.parametrize("framework", ["flax", "torch"])
def test_optimizers_of_one_framework_come_without_the_other(framework: str) -> None:
    other = ["torch", "deepspeed"] if framework == "flax" else ["jax", "flax", "optax"]
    python(REFUSE.format(blocked=other) + f"import dlhpc; dlhpc.optimizers.{framework}_optimizers.build")


def test_an_unknown_name_says_what_there_is() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'trian'; it offers AsyncClient, Client, .*train"):
        dlhpc.trian  # noqa: B018
    with pytest.raises(AttributeError, match=r"'dlhpc.optimizers' has no attribute 'mlx_optimizers'"):
        dlhpc.optimizers.mlx_optimizers  # noqa: B018


def specs(base: type[Spec]) -> list[type[Spec]]:
    """The models of configuration files: other frozen models describe results."""
    children = [child for child in base.__subclasses__() if child.__module__.startswith("dlhpc.spec.")]
    return [inner for child in children for inner in (child, *specs(child))]


@pytest.mark.parametrize("spec", specs(Spec), ids=lambda spec: spec.__name__)
def test_every_key_of_a_configuration_is_explained(spec: type[Spec]) -> None:
    discriminators = {"architecture", "source", "name", "kind"}
    unexplained = [
        key for key, field in spec.model_fields.items() if not field.description and key not in discriminators
    ]
    assert unexplained == []


def test_runs_and_servers_are_among_them() -> None:
    assert {RunSpec, ServingSpec} <= set(specs(Spec))
