"""One picture of an evaluation: who is taken for whom, and whether the probabilities mean what they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from dlhpc.files import atomic_path
from dlhpc.training.evaluation import EvaluationReport

_INK, _SOFT, _LINE = "#1f2933", "#616e7c", "#cbd2d9"
_BLUE, _RED, _DARK_RED = "#2b6cb0", "#d64545", "#b91c1c"
_MOST_NUMBERS, _MOST_NAMES = 20, 40
_LONGEST_NAME = 18
_LETTERS_IN_A_ROW = 75


def draw(report: EvaluationReport, path: Path, *, title: str) -> None:
    """Write a PNG of the confusion matrix and the reliability diagram. Leaves matplotlib's global state alone."""
    figure = Figure(figsize=(14.5, 7.2), dpi=120, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 2, width_ratios=(1.15, 1.0), height_ratios=(3.2, 1.0))
    _confusion(figure, figure.add_subplot(grid[:, 0]), report)
    reliability = figure.add_subplot(grid[0, 1])
    _reliability(reliability, report)
    _confidences(figure.add_subplot(grid[1, 1], sharex=reliability), report)
    low, high = report.interval
    figure.suptitle(
        f"{_literal(title)}\n"
        f"accuracy {report.accuracy:.2%}  (95% interval {low:.2%} to {high:.2%}, {report.count:,} examples)",
        fontsize=14,
        color=_INK,
        linespacing=1.5,
    )
    with atomic_path(path) as aside:
        figure.savefig(aside, format="png")


def _confusion(figure: Figure, axes: Axes, report: EvaluationReport) -> None:
    counts: npt.NDArray[np.int64] = np.array(report.confusion)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    # The root makes a share of one percent visible beside the diagonal's hundred.
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.45, vmin=0.0, vmax=1.0), interpolation="nearest")
    if len(counts) <= _MOST_NUMBERS:
        _numbers(axes, counts, shares)
    step = -(-len(counts) // _MOST_NAMES)
    places = np.arange(0, len(counts), step)
    names = [_shortened(report.classes[place].name) for place in places]
    size = 10 if len(counts) <= _MOST_NUMBERS else 7
    upright = sum(len(name) + 2 for name in names) > _LETTERS_IN_A_ROW
    axes.set_xticks(places, names, fontsize=size, rotation=90 if upright else 0)
    axes.set_yticks(places, names, fontsize=size)
    if len(counts) <= _MOST_NAMES:
        axes.set_xticks(np.arange(len(counts) + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(len(counts) + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0, colors=_INK)
    axes.set_xlabel("predicted class", fontsize=11, color=_INK)
    axes.set_ylabel("actual class", fontsize=11, color=_INK)
    axes.set_title("Confusion", loc="left", fontsize=12, fontweight="bold", color=_INK)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, shrink=0.75, pad=0.02, ticks=[0, 0.01, 0.05, 0.2, 0.5, 1.0])
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    bar.ax.tick_params(length=0, labelsize=9, colors=_SOFT)
    bar.set_label("share of the actual class", fontsize=9, color=_SOFT)
    bar.outline.set_visible(False)


def _numbers(axes: Axes, counts: npt.NDArray[np.int64], shares: npt.NDArray[np.float64]) -> None:
    """The count in every cell that has one; errors in red, so that the eye finds them."""
    size = 10 if len(counts) <= 12 else 8
    for actual, predicted in np.argwhere(counts):
        wrong = actual != predicted
        colour = "white" if shares[actual, predicted] > 0.18 else _DARK_RED if wrong else _INK
        axes.text(
            predicted,
            actual,
            f"{counts[actual, predicted]}",
            ha="center",
            va="center",
            fontsize=size,
            color=colour,
            fontweight="bold" if wrong else "normal",
        )


def _reliability(axes: Axes, report: EvaluationReport) -> None:
    calibration = report.calibration
    filled = [each for each in calibration.bins if each.count]
    left, width = [each.low for each in filled], [each.high - each.low for each in filled]
    accuracy = np.array([each.accuracy for each in filled], np.float64)
    confidence = np.array([each.confidence for each in filled], np.float64)
    axes.plot([0, 1], [0, 1], color=_INK, linestyle="--", linewidth=1, label="ideal", zorder=3)
    axes.bar(left, accuracy, width, align="edge", color=_BLUE, edgecolor="white", label="accuracy")
    axes.vlines(confidence, np.minimum(accuracy, confidence), np.maximum(accuracy, confidence), color=_RED, zorder=4)
    axes.plot(confidence, confidence, "o", color=_RED, markersize=5, label="mean confidence", zorder=5)
    facts = f"ECE   {calibration.ece:.4f}\nBrier {calibration.brier:.4f}\nNLL   {calibration.nll:.4f}"
    axes.text(
        *(0.97, 0.05, facts),
        transform=axes.transAxes,
        ha="right",
        va="bottom",
        multialignment="left",
        family="monospace",
        fontsize=10,
        color=_INK,
        zorder=6,
        bbox={"facecolor": "white", "edgecolor": _LINE, "boxstyle": "round,pad=0.5"},
    )
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.set_ylabel("accuracy", fontsize=11, color=_INK)
    axes.set_title("Reliability", loc="left", fontsize=12, fontweight="bold", color=_INK)
    _legend(axes)
    axes.tick_params(labelbottom=False)
    _plain(axes)


def _confidences(axes: Axes, report: EvaluationReport) -> None:
    bins = report.calibration.bins
    shares = [each.count / report.count for each in bins]
    axes.bar([each.low for each in bins], shares, 1 / len(bins), align="edge", color=_LINE, edgecolor="white")
    axes.axvline(report.calibration.confidence, color=_RED, linewidth=1.5, label="mean confidence")
    axes.axvline(report.accuracy, color=_BLUE, linewidth=1.5, linestyle=(0, (4, 2)), label="accuracy")
    _legend(axes)
    axes.set_xlabel("confidence: probability of the predicted class", fontsize=11, color=_INK)
    axes.set_ylabel("share of\nexamples", fontsize=10, color=_INK)
    axes.set_ylim(0, 1)
    axes.set_yticks([0.0, 0.5, 1.0])
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    _plain(axes)


def _legend(axes: Axes) -> None:
    """Above the axes, where no bar can run into it."""
    axes.legend(
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        ncols=3,
        frameon=False,
        fontsize=9,
        labelcolor=_INK,
        borderaxespad=0.2,
        columnspacing=1.4,
    )


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_LINE)
    axes.tick_params(length=0, labelsize=9, colors=_SOFT)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color=_LINE, linewidth=0.6, alpha=0.7)


def _shortened(name: str) -> str:
    """Names of one kind often differ at the end alone: the middle goes."""
    return _literal(name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 8]}…{name[-7:]}")


def _literal(text: str) -> str:
    """Dollar signs are no mathematics."""
    return text.replace("$", r"\$")
