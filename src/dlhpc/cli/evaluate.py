"""`dlhpc evaluate`: how good a published version is."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from dlhpc.cli.locations import HELP, LOCATION
from dlhpc.cli.output import console, print_json, table
from dlhpc.cli.registry.options import require_signature
from dlhpc.errors import DlhpcError

if TYPE_CHECKING:
    from dlhpc.training.evaluation import EvaluationReport
    from dlhpc.training.evaluation_data import Progress

_MOST_CLASSES = 40
_WORST = 20


@click.command(
    epilog="""\b
Examples:
  dlhpc evaluate digits-mlp
  dlhpc evaluate digits-mlp@production --out evaluation --fail-under 0.96
  dlhpc evaluate digits-mlp:3 --backend torch --json
  dlhpc evaluate flowers-cnn --data new_flowers --part all

\b
The data is that of the training, cut in the same way, unless --data names
another folder (one sub-folder of images per class) or .npz file. Exit status 1
when the accuracy is under --fail-under, 3 when the version is damaged."""
)
@click.argument("ref")
@click.option("--registry", "root", type=LOCATION, default="registry", show_default=True, help=HELP)
@click.option("--data", "data_path", type=click.Path(path_type=Path), help="Other data: a folder or an .npz file.")
@click.option("--part", type=click.Choice(["test", "validation", "all"]), default="test", show_default=True,
              help="Part of the data; `all` wants --data, since the model has learnt from its own.")  # fmt: skip
@click.option("--backend", type=click.Choice(["flax", "torch"]), help="Framework; by default the one that trained it.")
@click.option("--batch-size", type=click.IntRange(min=1), default=256, show_default=True, help="Images at a time.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False),
              help="Folder for report.json and evaluation.png (confusion and reliability).")  # fmt: skip
@click.option("--fail-under", type=click.FloatRange(0.0, 1.0), metavar="ACC", help="Fail when the accuracy is lower.")
@require_signature
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(
    ref: str,
    root: str,
    data_path: Path | None,
    part: Literal["test", "validation", "all"],
    backend: str | None,
    batch_size: int,
    out: Path | None,
    fail_under: float | None,
    keys: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Measure the published version REF on the test part of its data.

    Prints accuracy with its 95% interval, precision, recall and F1 of each class, calibration, and the most frequent
    confusions.
    """
    from dlhpc import api
    from dlhpc.training.evaluation_data import data_at

    registry = api.Registry(root)
    digest = registry.resolve(ref)  # an alias that moves meanwhile changes nothing
    manifest = registry.manifest(f"sha256:{digest}")
    run = manifest.run
    shape = run.model.input_shape
    assert shape is not None, "an artifact's run is resolved"
    data = run.data if data_path is None else data_at(data_path, run.data, shape)
    with _progress() as progress:
        report = api.evaluate(
            f"sha256:{digest}",
            registry=root,
            data=None if data_path is None else data,
            part=part,
            backend=backend,
            batch_size=batch_size,
            progress=progress,
            require_signature=keys,
        )
    facts = {"ref": ref, "digest": digest, "backend": backend or run.backend, "part": part}
    everything = {**facts, "data": data.model_dump(mode="json"), **report.canonical()}
    where = f"{part} part of {data.source}" if data_path is None else f"{part} part of {data_path}"
    # Files first: a reader that goes away (`| head`) ends the program at the next line it is sent.
    if out is not None:
        _write(out, everything, report, f"{ref} on the {where}")
    print_json(everything) if as_json else _print(f"{ref} on the {where}, in {facts['backend']}", digest, report)
    if fail_under is not None and report.accuracy < fail_under:
        raise DlhpcError(f"{ref}: accuracy {report.accuracy:.4f} is under {fail_under} (--fail-under)")


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar on stderr, when somebody can see it."""
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("evaluating", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _write(folder: Path, everything: dict[str, object], report: EvaluationReport, title: str) -> None:
    from dlhpc.files import write_atomic
    from dlhpc.spec.base import canonical_json
    from dlhpc.training.evaluation_picture import draw

    write_atomic(folder / "report.json", canonical_json(everything) + b"\n")
    draw(report, folder / "evaluation.png", title=title)
    click.echo(f"written: {folder / 'report.json'}, {folder / 'evaluation.png'}", err=True)


def _print(title: str, digest: str, report: EvaluationReport) -> None:
    low, high = report.interval
    calibration = report.calibration
    facts = table("", "")
    facts.title, facts.show_header = title, False
    facts.add_row("version", f"sha256:{digest}")
    facts.add_row("accuracy", f"{report.accuracy:.4f}   95% interval {low:.4f} to {high:.4f}   "
                              f"{report.correct} of {report.count} right")  # fmt: skip
    facts.add_row("macro F1", f"{report.macro_f1:.4f}")
    measures = {"ECE": calibration.ece, "Brier": calibration.brier, "NLL": calibration.nll}
    measures["mean confidence"] = calibration.confidence
    facts.add_row("calibration", "   ".join(f"{name} {value:.4f}" for name, value in measures.items()))
    screen = console()
    screen.print(facts)
    _print_classes(report)
    if report.top_confusions:
        shown = table(
            "actual", "taken for", "count", "share", title="\nMost frequent confusions", right=("count", "share")
        )
        for each in report.top_confusions:
            shown.add_row(each.actual, each.predicted, str(each.count), f"{each.share:.1%}")
        screen.print(shown)


def _print_classes(report: EvaluationReport) -> None:
    """All classes, or the worst when there are many."""
    chosen, title = report.classes, "\nClasses"
    if len(chosen) > _MOST_CLASSES:
        chosen = tuple(sorted(chosen, key=lambda score: -1.0 if score.f1 is None else score.f1)[:_WORST])
        title = f"\nThe {_WORST} of {len(report.classes)} classes with the lowest F1"
    numbers = ("precision", "recall", "F1", "support")
    shown = table("class", *numbers, title=title, right=numbers)
    for score in chosen:
        measured = (score.precision, score.recall, score.f1)
        shown.add_row(score.name, *("-" if value is None else f"{value:.4f}" for value in measured), str(score.support))
    console().print(shown)
