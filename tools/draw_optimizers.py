"""The pictures of docs/optimizers.md: every optimizer on Rosenbrock's valley, and in training on handwritten digits.

python tools/draw_optimizers.py [FOLDER]

Each optimizer has all its constants at their defaults, the same number of steps and the same choice of learning rates.
The digits are trained by the training loop itself (JAX/Flax, some minutes); their test part is never read.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from dlhpc import api
from dlhpc.optimizers.rules import Scalars, bind
from dlhpc.optimizers.schedules import scale
from dlhpc.spec.optimizer import OptimizerSpec
from dlhpc.spec.run import RunSpec
from dlhpc.spec.schedule import CosineSchedule
from dlhpc.training.events import Evaluated, Logged, wants

FOLDER = Path(__file__).parents[1] / "docs" / "pictures"
ROSENBROCK, DIGITS = "optimizers-rosenbrock.png", "optimizers-digits.png"
RATES = [base * 10.0**power for power in (-4, -3, -2, -1, 0) for base in (1, 3)]
"""What each optimizer may choose from."""
COLOURS = {"adamw": "#555555", "lion": "#d55e00", "adan": "#0072b2", "adabelief": "#009e73", "sophia": "#cc79a7"}
NAMES = {"adamw": "AdamW", "lion": "Lion", "adan": "Adan", "adabelief": "AdaBelief", "sophia": "Sophia"}
INK, FAINT = "#333333", "#d5d5d5"

Vector = npt.NDArray[np.float64]

# -- a valley --------------------------------------------------------------------------------------------------------

STEPS = 1000
START, END = np.array([-1.5, 1.8]), np.array([1.0, 1.0])


def valley(x: Vector) -> Any:
    """Rosenbrock's function; its least value is 0 at (1, 1)."""
    return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2


def slope(x: Vector) -> Vector:
    """Its gradient."""
    rise = x[1] - x[0] ** 2
    return np.array([-2 * (1 - x[0]) - 400 * x[0] * rise, 200 * rise])


def bend(x: Vector) -> Vector:
    """The diagonal of its Hessian."""
    return np.array([2 - 400 * (x[1] - 3 * x[0] ** 2), 200.0])


def descent(spec: OptimizerSpec, rate: float, steps: int = STEPS) -> Vector:
    """The points (steps + 1, 2) that the rule visits, with a cosine schedule; Sophia is given the exact diagonal."""
    bound, x, path = bind(spec), START, [START]
    slots = tuple(np.zeros(2) for _ in bound.slots)
    for step in range(steps):
        if bound.curvature is not None and bound.curvature.due(step):
            index = bound.slots.index(bound.curvature.slot)
            slots = (*slots[:index], bound.curvature.fold(slots[index], bend(x)), *slots[index + 1 :])
        numbers = Scalars(rate * scale(CosineSchedule(), step, steps), 0.0, step + 1)
        slots, x = bound.rule(np, slope(x), slots, x, numbers)
        path.append(x)
    return np.array(path)


def best_descent(spec: OptimizerSpec) -> tuple[float, Vector]:
    """(learning rate, points) of the rate whose points have the lowest mean value."""
    return min(((rate, descent(spec, rate)) for rate in RATES), key=lambda pair: float(valley(pair[1].T).mean()))


def specs() -> list[OptimizerSpec]:
    """Every optimizer, as it is without being told anything."""
    return [kind() for kind in get_args(get_args(OptimizerSpec)[0])]


def draw_rosenbrock(path: Path) -> None:
    """Write the PNG of the valley. Needs no display."""
    figure = Figure(figsize=(13, 7.6), layout="constrained", facecolor="white")
    title = f"Rosenbrock's valley: {STEPS} steps, at whichever of {len(RATES)} learning rates has the lowest mean value"
    figure.suptitle(title, fontsize=14, color=INK, x=0.01, ha="left")
    panels = list(figure.subplots(2, 3).flat)
    together = panels[-1]
    grid = np.stack(np.meshgrid(np.linspace(-2, 1.6, 361), np.linspace(-0.7, 2.6, 331)))
    for panel, spec in zip(panels, specs(), strict=False):
        rate, points = best_descent(spec)
        colour, values = COLOURS[spec.name], valley(points.T)
        panel.contourf(*grid, valley(grid) + 1e-3, np.logspace(-2, 3.5, 12), norm=LogNorm(), cmap="Greys", alpha=0.45)
        panel.plot(*points.T, color=colour, linewidth=1.6)
        panel.plot(*points[:: STEPS // 20].T, "o", color=colour, markersize=4)
        panel.plot(*START, "o", color="white", markeredgecolor=INK, markersize=7)
        panel.plot(*END, "*", color="#f0c000", markeredgecolor=INK, markersize=14)
        _finish(panel, f"{NAMES[spec.name]}, rate {rate:g}, ends at {values[-1]:.1e}", colour)
        panel.set(xlim=(-2, 1.6), ylim=(-0.7, 2.6))
        together.semilogy(values, color=colour, linewidth=1.8, label=NAMES[spec.name])
    _finish(together, "Value at each step", INK)
    together.set(xlim=(0, STEPS), ylim=(1e-8, 1e2), xlabel="step")
    together.legend(fontsize=9, frameon=False, labelcolor=INK, loc="lower left")
    _write(figure, path)


# -- digits ----------------------------------------------------------------------------------------------------------

AUGMENT = {"rotation": 15.0, "translation": 0.08, "scale": 0.15, "shear": 10.0}


class Budget(NamedTuple):
    """What each optimizer may spend."""

    epochs: int = 30
    rates: Sequence[float] = RATES[:7]
    choosing: Sequence[int] = (0, 1, 2)
    """Seeds over which the validation loss chooses the learning rate."""
    shown: Sequence[int] = (3, 4, 5, 6, 7)
    """Seeds of the runs that are drawn."""
    optimizers: Sequence[str] = tuple(NAMES)


class Curves(NamedTuple):
    """The losses of one run at the end of each epoch."""

    training: list[float]
    validation: list[float]


def train(optimizer: str, rate: float, seed: int, epochs: int) -> Curves:
    """A small MLP, trained on 1,162 digits and validated on 463."""
    curves = Curves([], [])

    @wants(Logged)
    def trained(event: Logged) -> None:
        curves.training.append(event.loss)

    @wants(Evaluated)
    def validated(event: Evaluated) -> None:
        curves.validation.append(event.loss)

    with tempfile.TemporaryDirectory() as folder:
        run = RunSpec.model_validate(
            {
                "name": "digits",
                "seed": seed,
                "backend": "flax",
                "model": {"architecture": "mlp", "hidden_sizes": [64, 64]},
                "optimizer": {"name": optimizer},
                "data": {"source": "digits", "split": {"method": "hash", "validation": 0.25}, "augment": AUGMENT},
                "training": {
                    "num_epochs": epochs,
                    "learning_rate": rate,
                    "log_every": 10**6,  # so that there is one line per epoch: before its evaluation
                    "checkpoint_every": epochs,
                    "keep_checkpoints": 0,
                    "non_finite_gradients": "skip",
                },
                "registry": {"publish": False},
                "runs_dir": folder,
            }
        )
        api.train(run, callbacks=[trained, validated])
    return curves


def chosen_rate(optimizer: str, budget: Budget, tell: Callable[[str], None]) -> float:
    """The learning rate whose runs end with the lowest mean validation loss."""

    def last_loss(rate: float) -> float:
        losses = [train(optimizer, rate, seed, budget.epochs).validation[-1] for seed in budget.choosing]
        tell(f"{optimizer} at {rate:g}: {np.mean(losses):.4f}")
        return float(np.mean(losses))

    return min(budget.rates, key=last_loss)


def draw_digits(path: Path, budget: Budget, tell: Callable[[str], None] = lambda line: None) -> None:
    """Train everything, then write the PNG of the losses. Needs no display."""
    figure = Figure(figsize=(13, 5.4), layout="constrained", facecolor="white")
    title = f"Digits, the same small MLP: mean of {len(budget.shown)} runs, shaded from the least to the greatest"
    figure.suptitle(title, fontsize=14, color=INK, x=0.01, ha="left")
    panels = figure.subplots(1, 2, sharey=True)
    epochs = np.arange(1, budget.epochs + 1)
    for optimizer in budget.optimizers:
        rate = chosen_rate(optimizer, budget, tell)
        runs = [train(optimizer, rate, seed, budget.epochs) for seed in budget.shown]
        for panel, name in zip(panels, Curves._fields, strict=True):
            losses, colour = np.array([getattr(run, name) for run in runs]), COLOURS[optimizer]
            label = f"{NAMES[optimizer]}, rate {rate:g}"
            panel.fill_between(epochs, losses.min(axis=0), losses.max(axis=0), color=colour, alpha=0.13, linewidth=0)
            panel.semilogy(epochs, losses.mean(axis=0), color=colour, linewidth=1.8, label=label)
            tell(f"{optimizer} drawn at {rate:g}: {name} loss {losses[:, -1].mean():.4f}")
    for panel, name in zip(panels, Curves._fields, strict=True):
        _finish(panel, f"{name.capitalize()} loss", INK)
        panel.set(xlim=(1, budget.epochs), xlabel="epoch")
        panel.tick_params(labelleft=True)
    panels[0].legend(fontsize=10, frameon=False, labelcolor=INK)
    _write(figure, path)


def _finish(panel: Axes, title: str, colour: str) -> None:
    panel.set_title(title, loc="left", fontsize=11, color=colour, fontweight="bold")
    panel.tick_params(colors=INK, length=3, labelsize=9)
    panel.grid(color=FAINT, linewidth=0.6)
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["bottom", "left"]].set_color(FAINT)


def _write(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=110)


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    draw_rosenbrock(folder / ROSENBROCK)
    draw_digits(folder / DIGITS, Budget(), lambda line: print(line, file=sys.stderr))
