"""The package keeps the house rules, and each rule catches the violation it is there for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.house import rules
from tests.house.import_time import nothing_happens_at_import
from tests.house.pickles import no_pickle_is_loaded
from tests.house.source import Module, read_package
from tests.house.twins import twins_stand_side_by_side

Rule = Callable[[list[Module]], list[str]]
RULES: list[Rule] = [
    rules.every_module_has_a_level,
    rules.imports_point_down,
    rules.libraries_stay_behind_their_fences,
    rules.nobody_imports_an_engine_by_name,
    rules.frameworks_do_not_mix,
    rules.names_are_imported_literally,
    rules.the_client_needs_only_spec_and_errors,
    rules.no_import_circles,
    rules.files_and_functions_are_small,
    rules.public_things_are_documented,
    rules.names_are_terms_of_the_field,
    rules.nothing_is_unfinished,
    nothing_happens_at_import,
    no_pickle_is_loaded,
    twins_stand_side_by_side,
]


@pytest.fixture(scope="session")
def package(checkout: Path) -> list[Module]:
    return read_package(checkout / "src" / "dlhpc")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_package_keeps_the_rule(rule: Rule, package: list[Module]) -> None:
    assert rule(package) == []


LONG_FILE = '"""Long."""\n' + "x = 1\n" * 400
LONG_FUNCTION = '"""Long."""\ndef f():\n    """Long."""\n' + "    x = 1\n" * 60

VIOLATIONS: list[tuple[Rule, dict[str, str], str]] = [
    (rules.every_module_has_a_level, {"attic.py": ""}, "attic.py: has no level"),
    # down only, wherever the import stands
    (rules.imports_point_down, {"spec/run.py": "import dlhpc.training.loop"}, "L6 lies above L1"),
    (rules.imports_point_down, {"spec/run.py": "from dlhpc import api"}, "L7 entry lies above L1"),
    (rules.imports_point_down, {"weights/a.py": "def f():\n    from dlhpc.engines import b"}, "weights/a.py:2"),
    (rules.imports_point_down, {"spec/a.py": "if TYPE_CHECKING:\n    from dlhpc.ports import X"}, "L3 lies above L1"),
    (rules.imports_point_down, {"data/a.py": "from ..training import loop"}, "L6 lies above L2"),
    (
        rules.imports_point_down,
        {"data/a.py": "importlib.import_module('dlhpc.cli.main')"},
        "L8 command line lies above",
    ),
    (rules.imports_point_down, {"optimizers/a.py": "from dlhpc.optimizers import flax_a"}, "L4 lies above L2"),
    (rules.imports_point_down, {"serving/app.py": "from dlhpc.serving import serve_ray"}, "L7 processes lies above L6"),
    # strangers
    (rules.imports_point_down, {"weights/a.py": "from dlhpc.data.plan import Plan"}, "strangers"),
    (rules.imports_point_down, {"serving/app.py": "import dlhpc.registry.store"}, "strangers"),
    # the facade
    (rules.imports_point_down, {"__init__.py": "from dlhpc.training.loop import fit"}, "the facade"),
    (rules.imports_point_down, {"data/a.py": "from dlhpc import train"}, "the module that defines the name"),
    # fences
    *[
        (rules.libraries_stay_behind_their_fences, {file: code}, f"{file}:")
        for file, code in {
            "models/mlp.py": "import jax.numpy as jnp",
            "models/torch_mlp.py": "from flax import nnx",
            "training/loop.py": "def f():\n    import torch",
            "engines/flax_learner.py": "from torch import nn",
            "engines/learner.py": "importlib.import_module('deepspeed')",
            "optimizers/rules.py": "import optax",
            "serving/app.py": "from ray import serve",
            "api.py": "import yaml",
            "weights/table.py": "from safetensors.numpy import save",
            "doctor/ports.py": "import click",
        }.items()
    ],
    (rules.nobody_imports_an_engine_by_name, {"api.py": "from dlhpc.engines.flax_learner import L"}, "load_backend"),
    (rules.nobody_imports_an_engine_by_name, {"cli/a.py": "def f():\n    import dlhpc.models.torch_a"}, "load_backend"),
    (rules.frameworks_do_not_mix, {"engines/flax_a.py": "from dlhpc.engines import torch_b"}, "knows nothing of"),
    (rules.frameworks_do_not_mix, {"engines/torch_a.py": "import dlhpc.models.flax_b"}, "knows nothing of"),
    (rules.names_are_imported_literally, {"data/a.py": "importlib.import_module(name)"}, "computed name"),
    (rules.names_are_imported_literally, {"data/a.py": "__import__(f'dlhpc.{x}')"}, "computed name"),
    (
        rules.the_client_needs_only_spec_and_errors,
        {"client/http.py": "from dlhpc.data.decode import d"},
        "installed alone",
    ),
    (
        rules.no_import_circles,
        {
            "data/a.py": "import dlhpc.data.b",
            "data/b.py": "from .c import x",
            "data/c.py": "def f():\n    from . import a",
        },
        "dlhpc.data.a -> dlhpc.data.b -> dlhpc.data.c -> dlhpc.data.a",
    ),
    (rules.files_and_functions_are_small, {"data/a.py": LONG_FILE}, "data/a.py: 401 lines"),
    (rules.files_and_functions_are_small, {"data/a.py": LONG_FUNCTION}, "f has 62 lines"),
    (rules.public_things_are_documented, {"data/a.py": "x = 1"}, "no docstring"),
    (rules.public_things_are_documented, {"data/a.py": '"""A."""\nclass C:\n    x = 1'}, "C has no docstring"),
    (rules.names_are_terms_of_the_field, {"data/image_utils.py": ""}, "call it by what it holds"),
    (rules.names_are_terms_of_the_field, {"data/a.py": "class DataManager:\n    x = 1"}, "DataManager"),
    (rules.nothing_is_unfinished, {"data/a.py": "x = 1  # TO" + "DO: more"}, "unfinished"),
    (rules.nothing_is_unfinished, {"data/a.py": "def f():\n    raise NotImplemented" + "Error"}, "unfinished"),
    (rules.nothing_is_unfinished, {"data/a.py": "def f():\n    pass"}, "`pass`"),
    (rules.nothing_is_unfinished, {"data/a.py": "def f():\n    ..."}, "f has no body"),
    *[
        (nothing_happens_at_import, {"data/flax_a.py": code}, "runs at import")
        for code in (
            "HOME = os.environ['HOME']",
            "def f(seed=os.getenv('SEED')):\n    return seed",
            "class C:\n    devices = jax.devices()",
            "torch.set_num_threads(1)",
            "register('a', C)",
            "if DEBUG:\n    print('hello')",
            "try:\n    x = open('f')\nexcept OSError:\n    x = None",
            "START = time.time()",
        )
    ],
    *[
        (no_pickle_is_loaded, {"data/torch_a.py": f"def f():\n    {code}"}, "data/torch_a.py:2")
        for code in (
            "import pickle",
            "from pickle import loads",
            "import joblib.numpy_pickle",
            "importlib.import_module('dill')",
            "torch.load(path)",
            "torch.load(path, weights_only=False)",
            "torch.load(path, weights_only=flag)",
            "from torch import load",
            "torch.hub.load('a', 'b')",
            "np.load(path, allow_pickle=True)",
            "numpy.lib.format.read_array(file, allow_pickle=flag)",
            "pd.read_pickle(path)",
            "yaml.load(text, Loader=yaml.Loader)",
            "yaml.unsafe_load(text)",
        )
    ],
    (
        twins_stand_side_by_side,
        {"models/flax_a.py": "class FlaxA:\n    x = 1", "engines/flax_b.py": "from dlhpc.models.flax_a import FlaxA"},
        "no torch_a.py beside it",
    ),
    (
        twins_stand_side_by_side,
        {"models/torch_a.py": "", "engines/torch_b.py": "import dlhpc.models.torch_a"},
        "no flax_a.py",
    ),
    (
        twins_stand_side_by_side,
        {
            "models/flax_a.py": "class FlaxA:\n    x = 1",
            "models/torch_deepspeed_a.py": "class TorchDeepSpeedB:\n    x = 1",
            "engines/flax_b.py": "from dlhpc.models import flax_a\nflax_a.FlaxA",
        },
        "torch_deepspeed_a.py: lacks what its twin offers: A",
    ),
    (
        twins_stand_side_by_side,
        {
            "data/flax_t.py": "def build(): return 1",
            "data/torch_t.py": "def make(): return 1",
            "api.py": "from dlhpc.data.flax_t import build",
        },
        "torch_t.py: lacks what its twin offers: build",
    ),
    (twins_stand_side_by_side, {"engines/flax_backend.py": "BACKEND = 1", "engines/torch_backend.py": ""}, "BACKEND"),
]


def plant(folder: Path, files: dict[str, str]) -> list[Module]:
    root = folder / "dlhpc"
    others = ["api.py", "training/loop.py", "engines/b.py", "data/plan.py", "registry/store.py", "optimizers/flax_a.py"]
    others += ["serving/serve_ray.py", "engines/torch_b.py", "ports.py"]
    for name, text in {**dict.fromkeys(others, '"""A."""\n'), **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return read_package(root)


@pytest.mark.parametrize(("rule", "files", "message"), VIOLATIONS)
def test_the_rule_catches_its_violation(rule: Rule, files: dict[str, str], message: str, tmp_path: Path) -> None:
    found = rule(plant(tmp_path, files))
    assert any(message in violation for violation in found), found


def test_every_rule_is_tried_with_a_violation() -> None:
    assert {rule for rule, _, _ in VIOLATIONS} == set(RULES)


LAWFUL: list[tuple[Rule, dict[str, str]]] = [
    (
        rules.imports_point_down,
        {"training/loop.py": "from dlhpc.spec.run import RunSpec\nfrom dlhpc import __version__"},
    ),
    (
        rules.imports_point_down,
        {"serving/serve_ray.py": "from dlhpc.registry.store import R\nfrom dlhpc.serving import app"},
    ),
    (rules.imports_point_down, {"data/a.py": "from dlhpc.data.plan import Plan"}),
    (
        rules.libraries_stay_behind_their_fences,
        {"engines/torch_a.py": "import torch, deepspeed", "spec/load_x.py": "import yaml"},
    ),
    (rules.nobody_imports_an_engine_by_name, {"engines/flax_a.py": "from dlhpc.models import flax_mlp"}),
    (rules.nothing_is_unfinished, {"ports.py": "class P(Protocol):\n    def f(self):\n        ..."}),
    (
        twins_stand_side_by_side,
        {"engines/torch_launch.py": "", "engines/torch_b.py": "import dlhpc.engines.torch_launch"},
    ),
    (no_pickle_is_loaded, {"data/a.py": "np.load(p, allow_pickle=False)\njson.load(f)\nself.load(p)\nyaml.compose(t)"}),
    (no_pickle_is_loaded, {"models/torch_a.py": "torch.load(path, weights_only=True)"}),
    (nothing_happens_at_import, {"cli/a.py": "if __name__ == '__main__':\n    sys.exit(main())"}),
    (nothing_happens_at_import, {"data/a.py": "def f(clock=time.monotonic):\n    return clock()"}),
    (nothing_happens_at_import, {"data/a.py": "import os\ndef f():\n    return os.environ['X']\nX = frozenset({1})"}),
]


@pytest.mark.parametrize(("rule", "files"), LAWFUL)
def test_the_rule_lets_lawful_code_pass(rule: Rule, files: dict[str, str], tmp_path: Path) -> None:
    assert [v for v in rule(plant(tmp_path, files)) if any(name in v for name in files)] == []
