"""A picture of a run's history: loss and accuracy over the epochs."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from dlhpc.files import atomic_path
from dlhpc.training.history import Row

STYLES = {"train": ".-", "validation": "o-"}


def draw_history(rows: list[Row], title: str, path: Path) -> None:
    """Write a PNG. Needs no display."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    figure.suptitle(title)
    for axes, measure in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for part, style in STYLES.items():
            points = [(row["epoch"], row[measure]) for row in rows if row["part"] == part and row[measure] is not None]
            if points:
                axes.plot(*zip(*points, strict=True), style, label=part, markersize=4)
        axes.set(xlabel="epoch", ylabel=measure)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    with atomic_path(path) as aside:
        figure.savefig(aside, format="png")
