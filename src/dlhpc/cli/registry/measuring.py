"""`dlhpc registry benchmark` and `benchmarks`: what versions cost, and what was found before."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dlhpc.cli.output import console, print_json, table
from dlhpc.cli.registry.options import REFERENCES, common, moment, open_registry

if TYPE_CHECKING:
    from dlhpc.registry.benchmark import BenchmarkPlan, Progress
    from dlhpc.registry.benchmark_record import BenchmarkRecord
    from dlhpc.registry.figures import Figure, Place

F = TypeVar("F", bound=Callable[..., Any])

CELL = ("p50", "p99", "throughput", "memory", "first_call")


def plan_options(function: F) -> F:
    """The options that say what is measured, and for how long; each is None or empty where it is not given."""
    for option in (
        click.option("--calls", type=click.IntRange(min=1), help="So many calls a round, instead of --seconds."),
        click.option("--seconds", type=float, help="Of calls, in each round.  [default: 0.1]"),
        click.option("--rounds", type=click.IntRange(min=1), help="Turns of each process.  [default: 5]"),
        click.option("--processes", type=click.IntRange(min=1), help="Fresh processes, one by one.  [default: 3]"),
        click.option(
            "--dtype",
            "dtypes",
            multiple=True,
            type=click.Choice(["uint8", "float32"]),
            help="Type of the images; may be repeated.  [default: uint8]",
        ),
        click.option(
            "--batch-sizes",
            multiple=True,
            type=click.IntRange(min=1),
            help="Images a call; may be repeated.  [default: 1, 8, 32]",
        ),
        click.option(
            "--backend",
            "backends",
            multiple=True,
            type=click.Choice(["flax", "torch"]),
            help="Framework; may be repeated.  [default: the one that trained the version]",
        ),
    ):
        function = option(function)
    return function


def plan_of(backends: tuple[str, ...], **given: Any) -> BenchmarkPlan:
    """The plan that options describe, for versions that are measured in `backends` unless they say otherwise."""
    from dlhpc.registry.benchmark import BenchmarkPlan

    chosen = {key: value for key, value in given.items() if value not in (None, ())}
    return BenchmarkPlan(**{"backends": backends, **chosen})


@contextmanager
def progress_bar(what: str) -> Iterator[Progress]:
    """A bar on stderr, when somebody can see it."""
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@click.command(
    epilog=f"""\b
Examples:
  dlhpc registry benchmark digits-mlp
  dlhpc registry benchmark digits-mlp:3 --backend flax --backend torch --batch-sizes 1 --batch-sizes 64
  dlhpc registry benchmark digits-mlp:3 digits-mlp:4 --dtype uint8 --dtype float32 --json

\b
Several versions take turns, so that `dlhpc registry compare` can judge their figures.
Each is loaded in fresh processes per framework, as a server would. All takes about
processes x rounds x seconds for each framework, batch size and type, and some seconds for each process.

{REFERENCES}"""
)
@click.argument("refs", nargs=-1, required=True, metavar="REF...")
@plan_options
@common
def benchmark(refs: tuple[str, ...], root: str, as_json: bool, backends: tuple[str, ...], **given: Any) -> None:
    """Measure latency, throughput, memory, loading and parity of versions, and add the figures to each."""
    registry = open_registry(root)
    trained_in = tuple(dict.fromkeys(registry.manifest(ref).run.backend for ref in refs))
    plan = plan_of(backends or trained_in, **given)
    with progress_bar("measuring") as progress:
        found = registry.benchmark(*refs, plan=plan, progress=progress)
    if as_json:
        print_json([record.canonical() for record in found])
        return
    names = {registry.resolve(ref): ref for ref in reversed(refs)}
    for record in found:
        print_benchmark(names[record.version], record)


@click.command(
    epilog=f"""\b
Examples:
  dlhpc registry benchmarks digits-mlp
  dlhpc registry benchmarks digits-mlp@production --json

{REFERENCES}"""
)
@click.argument("ref")
@common
def benchmarks(ref: str, root: str, as_json: bool) -> None:
    """What was measured of a version so far, under all its names, oldest first."""
    found = open_registry(root).benchmarks(ref)
    if as_json:
        print_json([record.canonical() for record in found])
    elif not found:
        click.echo(f"{ref} was never measured; to do so: dlhpc registry benchmark {ref}")
    for record in () if as_json else found:
        print_benchmark(f"{record.number}. {ref}, {moment(record.at)} by {record.by}", record)


def print_benchmark(title: str, record: BenchmarkRecord) -> None:
    """A table of the cells, then a line for each framework."""
    from dlhpc.registry.figures import Place, figures

    found = figures(record)
    shown = table(
        "backend",
        "batch",
        "dtype",
        *(heading(Place(figure)) for figure in CELL),
        "calls",
        title=f"{title}\n{record.hardware}",
        right=("batch", *(heading(Place(figure)) for figure in CELL), "calls"),
    )
    for cell in record.cells:
        kind = (cell.backend, cell.batch_size, cell.dtype)
        values = (number(found[Place(figure, *kind)]) for figure in CELL)
        calls = sum(each.calls for each in cell.rounds)
        shown.add_row(cell.backend, str(cell.batch_size), cell.dtype, *values, str(calls))
    screen = console()
    screen.print(shown)
    for process in record.processes:
        load = number(found[Place("load", process.backend)])
        first, imports, held = (
            statistics.median(getattr(each, key) for each in process.beginnings)
            for key in ("first_load_ms", "import_ms", "loaded_mb")
        )
        screen.print(
            f"{process.backend} on {process.device}, {process.threads} threads: load {load} ms, the first "
            f"{first:.4g} ms after {imports:.4g} ms of imports; {held:.4g} MB once loaded; parity {process.parity:.2g}"
        )


def heading(place: Place) -> str:
    """A figure's name with its unit."""
    return f"{place.figure} {place.unit}".strip()


def number(figure: Figure | None) -> str:
    """A figure's value; empty where there is none."""
    return "" if figure is None else f"{figure.value:.4g}" if figure.value < 1e4 else f"{figure.value:.0f}"
