"""The pictures of the documents can be drawn again, and leave nothing out."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any, get_args

import pytest
from PIL import Image

from dlhpc.spec.schedule import Schedule

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def schedules() -> dict[str, Any]:
    """What tools/draw_schedules.py defines."""
    return runpy.run_path(str(ROOT / "tools" / "draw_schedules.py"))


def test_every_schedule_is_drawn(schedules: dict[str, Any]) -> None:
    titles = {name for title, _, _ in schedules["PANELS"] for name in title.split(", ")} | {schedules["PLATEAU"].name}
    assert titles == {kind.model_fields["name"].default for kind in get_args(get_args(Schedule)[0])}


def test_every_curve_is_what_its_panel_says(schedules: dict[str, Any]) -> None:
    for title, _, variants in schedules["PANELS"]:
        for label, schedule in variants:
            assert schedule.name in title.split(", ")
            if label:
                field, value = label.split(": ")
                assert str(getattr(schedule, field)).removesuffix(".0") == value


def test_the_plateau_s_example_is_reduced(schedules: dict[str, Any]) -> None:
    factors, losses = schedules["plateau_example"]()
    assert len(factors) == schedules["STEPS"]
    assert len(set(factors[200:])) >= 3
    assert losses[-1] < losses[0]


def test_the_picture_in_the_documents_has_its_size(schedules: dict[str, Any], tmp_path: Path) -> None:
    schedules["draw"](tmp_path / "new" / "schedules.png")
    with Image.open(tmp_path / "new" / "schedules.png") as drawn, Image.open(schedules["PICTURE"]) as shown:
        assert drawn.size == shown.size
        assert len(drawn.convert("RGB").getcolors(1 << 24) or []) > 100
