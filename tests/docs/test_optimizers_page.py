"""docs/optimizers.md has the constants of the specs, and pictures that can be drawn again."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image

from dlhpc.optimizers.rules import bind
from dlhpc.spec.optimizer import OptimizerSpec

ROOT = Path(__file__).resolve().parents[2]
KINDS: tuple[Any, ...] = get_args(get_args(OptimizerSpec)[0])


@pytest.fixture(scope="module")
def page() -> str:
    return (ROOT / "docs" / "optimizers.md").read_text()


@pytest.fixture(scope="module")
def pictures() -> dict[str, Any]:
    """What tools/draw_optimizers.py defines."""
    return runpy.run_path(str(ROOT / "tools" / "draw_optimizers.py"))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_constant_stands_there_with_its_default(kind: Any, page: str) -> None:
    section = page.split(f"\n### {kind.__name__.removesuffix('Spec')}\n", 1)[1].split("\n#", 1)[0]
    told = dict(re.findall(r"^\| `(\w+)` \| (\S+) \|", section, re.MULTILINE))
    words = {None: "null", True: "true", False: "false"}
    defaults = {name: field.default for name, field in kind.model_fields.items() if name not in {"name", "groups"}}
    assert told == {name: words.get(value, str(value)) for name, value in defaults.items()}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_arrays_per_weight_are_the_rule_s_slots(kind: Any, page: str) -> None:
    spec = kind()
    assert re.search(rf"^\| `{spec.name}` \|.*\| {len(bind(spec).slots)} \|$", page, re.MULTILINE)


def test_every_optimizer_is_drawn(pictures: dict[str, Any]) -> None:
    names = {kind().name for kind in KINDS}
    assert {spec.name for spec in pictures["specs"]()} == names
    assert set(pictures["COLOURS"]) == set(pictures["Budget"]().optimizers) == names


def test_the_descents_come_down_at_a_rate_from_the_middle(pictures: dict[str, Any]) -> None:
    """So the choice of rates was wide enough."""
    for spec in pictures["specs"]():
        rate, points = pictures["best_descent"](spec)
        assert pictures["RATES"][0] < rate < pictures["RATES"][-1]
        assert pictures["valley"](points[-1]) < 0.02 < pictures["valley"](points[0])


def test_the_valley_s_derivatives_are_its_own(pictures: dict[str, Any]) -> None:
    x, width = np.array([-0.4, 0.7]), 1e-5
    for axis, unit in enumerate(np.eye(2) * width):
        rise = (pictures["valley"](x + unit) - pictures["valley"](x - unit)) / (2 * width)
        turn = (pictures["slope"](x + unit) - pictures["slope"](x - unit))[axis] / (2 * width)
        assert rise == pytest.approx(pictures["slope"](x)[axis], rel=1e-6)
        assert turn == pytest.approx(pictures["bend"](x)[axis], rel=1e-6)


@pytest.mark.slow
def test_the_pictures_have_their_sizes(pictures: dict[str, Any], tmp_path: Path) -> None:
    brief = pictures["Budget"](epochs=2, rates=[1e-3], choosing=[0], shown=[1], optimizers=["sophia"])
    pictures["draw_rosenbrock"](tmp_path / pictures["ROSENBROCK"])
    told: list[str] = []
    pictures["draw_digits"](tmp_path / pictures["DIGITS"], brief, told.append)
    assert [line.split(":")[0] for line in told] == ["sophia at 0.001", *["sophia drawn at 0.001"] * 2]
    for name in (pictures["ROSENBROCK"], pictures["DIGITS"]):
        with Image.open(tmp_path / name) as drawn, Image.open(pictures["FOLDER"] / name) as shown:
            assert drawn.size == shown.size
            assert len(drawn.convert("RGB").getcolors(1 << 24) or []) > 100
