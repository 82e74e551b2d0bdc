"""The picture of docs/schedules.md: every learning-rate schedule, drawn by the code that training asks.

python tools/draw_schedules.py [PATH]
"""

from __future__ import annotations

import sys
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dlhpc.optimizers.plateau import Plateau, update
from dlhpc.optimizers.schedules import scale
from dlhpc.spec.schedule import (
    ConstantSchedule,
    CosineSchedule,
    LinearSchedule,
    OneCycleSchedule,
    PolynomialSchedule,
    ReduceOnPlateauSchedule,
    Schedule,
    WSDSchedule,
)

PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "schedules.png"
STEPS = 1000
EVALUATIONS = 50
INK, FAINT = "#333333", "#d5d5d5"

Curve = list[float]
PANELS: list[tuple[str, str, list[tuple[str, Schedule]]]] = [
    ("constant", "#777777", [("", ConstantSchedule(warmup=0.1))]),
    ("linear", "#0072b2", [("", LinearSchedule(warmup=0.1)), ("final_scale: 0.3", LinearSchedule(final_scale=0.3))]),
    ("cosine, warmup_cosine", "#009e73", [("", CosineSchedule(warmup=0.1)), ("warmup: 0", CosineSchedule())]),
    (
        "polynomial",
        "#cc79a7",
        [("power: 2", PolynomialSchedule(warmup=0.1)), ("power: 0.5", PolynomialSchedule(warmup=0.1, power=0.5))],
    ),
    ("one_cycle", "#d55e00", [("", OneCycleSchedule()), ("warmup: 0.6", OneCycleSchedule(warmup=0.6))]),
    (
        "wsd",
        "#e69f00",
        [("shape: sqrt", WSDSchedule(warmup=0.1)), ("shape: linear", WSDSchedule(warmup=0.1, shape="linear"))],
    ),
]
"""Title, colour, and what is drawn: the first solid, the second dashed."""
PLATEAU = ReduceOnPlateauSchedule(warmup=0.1, factor=0.4, patience=4, threshold=0.01)
PLATEAU_COLOUR = "#7a3fb0"


def curve(schedule: Schedule) -> Curve:
    """The factor at each step."""
    return [scale(schedule, step, STEPS) for step in range(STEPS)]


def plateau_example() -> tuple[Curve, Curve]:
    """Factors at each step, and a made-up validation loss at each evaluation that sinks as far as the rate lets it."""
    state, loss = Plateau(), 1.0
    factors: Curve = []
    losses: Curve = []
    period = STEPS // EVALUATIONS
    for evaluation in range(EVALUATIONS):
        steps = range(evaluation * period, (evaluation + 1) * period)
        factors += [state.scale * scale(PLATEAU, step, STEPS) for step in steps]
        floor = 0.12 + 0.5 * state.scale
        loss += 0.4 * (floor - loss) + 0.012 * (-1) ** evaluation * state.scale
        losses.append(loss)
        if steps[-1] >= PLATEAU.warmup * STEPS:
            state = update(PLATEAU, state, loss)
    return factors, losses


def draw(path: Path) -> None:
    """Write the PNG. Needs no display."""
    figure = Figure(figsize=(13, 5.6), layout="constrained", facecolor="white")
    figure.suptitle("Learning rate over a run, as a share of its peak", fontsize=14, color=INK, x=0.01, ha="left")
    panels = list(figure.subplots(2, 4, sharex=True, sharey=True).flat)
    together = panels[-1]
    share = [step / STEPS for step in range(STEPS)]
    for panel, (title, colour, variants) in zip(panels[: len(PANELS)], PANELS, strict=True):
        for (label, schedule), style in zip(variants, ("-", (0, (3, 2))), strict=False):
            panel.plot(share, curve(schedule), color=colour, linestyle=style, linewidth=2, label=label, clip_on=False)
        _finish(panel, title, colour)
        together.plot(share, curve(variants[0][1]), color=colour, linewidth=1.4)
    factors, losses = plateau_example()
    panel = panels[len(PANELS)]
    evaluated = [(evaluation + 1) / EVALUATIONS for evaluation in range(EVALUATIONS)]
    panel.plot(evaluated, losses, "o-", color="#b5b5b5", markersize=2.5, linewidth=1, label="validation loss (made up)")
    panel.plot(share, factors, color=PLATEAU_COLOUR, linewidth=2, label="patience: 4", clip_on=False)
    _finish(panel, "reduce_on_plateau", PLATEAU_COLOUR)
    together.plot(share, factors, color=PLATEAU_COLOUR, linewidth=1.4)
    _finish(together, "all together", INK)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=110)


def _finish(panel: Axes, title: str, colour: str) -> None:
    panel.set_title(title, loc="left", fontsize=11, color=colour, fontweight="bold")
    panel.set(xlim=(0, 1), ylim=(0, 1.04))
    panel.set_xticks([0, 0.5, 1], labels=["start", "half the run", "end"])
    panel.set_yticks([0, 0.5, 1], labels=["0", "½", "peak"])
    panel.tick_params(colors=INK, length=3, labelsize=9)
    panel.grid(color=FAINT, linewidth=0.6)
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["bottom", "left"]].set_color(FAINT)
    if any(not str(line.get_label()).startswith("_") for line in panel.lines):
        panel.legend(fontsize=8.5, frameon=True, framealpha=0.9, edgecolor="none", loc="best", labelcolor=INK)


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE)
