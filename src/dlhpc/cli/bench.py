"""`dlhpc bench`: measure on this machine."""

from __future__ import annotations

import itertools
import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dlhpc.bench.report import Result
    from dlhpc.spec.run import Backend

SUITES = ("loop", "inference", "optimizers", "serving")
WITHOUT_SERVERS = SUITES[:3]
CONTENDERS = ("dlhpc", "FastAPI", "LitServe", "Ray Serve")
WORKLOADS = ("10M", "100M", "500-small")


@click.command(
    epilog="""\b
Examples:
  dlhpc bench inference --batch-sizes 1 --batch-sizes 32
  dlhpc bench loop --backend flax --rounds 5
  dlhpc bench optimizers --workload 10M
  dlhpc bench serving --quick                 # beside FastAPI, LitServe and Ray Serve; from a checkout
  dlhpc bench serving --contender dlhpc --clients 32
  python benchmarks/run_benchmarks.py --batch-sizes 1 4 8 16 32   # all suites"""
)
@click.argument("suites", nargs=-1, type=click.Choice(SUITES))
@click.option(
    "--backend",
    "backends",
    multiple=True,
    type=click.Choice(["flax", "torch"]),
    default=["flax", "torch"],
    show_default=True,
    help="Framework to measure; repeat for several.",
)
@click.option(
    "--batch-sizes",
    multiple=True,
    type=click.IntRange(min=1),
    default=[1, 4, 8, 16, 32],
    show_default=True,
    help="Images a call, for `inference`; repeat for several.",
)
@click.option(
    "--calls", default=200, show_default=True, type=click.IntRange(min=1), help="Timed calls, for `inference`."
)
@click.option(
    "--hidden",
    multiple=True,
    type=click.IntRange(min=1),
    default=[512, 256, 128],
    show_default=True,
    help="Hidden widths of the network, for `loop`.",
)
@click.option("--steps", default=100, show_default=True, type=click.IntRange(min=10), help="Steps a round, for `loop`.")
@click.option(
    "--rounds",
    default=None,
    type=click.IntRange(min=1),
    help="Alternating rounds; 21 for `loop`, 3 for `optimizers` and `serving` unless given.",
)
@click.option(
    "--workload",
    "workloads",
    multiple=True,
    type=click.Choice(WORKLOADS),
    default=["10M", "500-small"],
    show_default=True,
    help="float32 parameters, for `optimizers`: one tensor of 10M or 100M, or 500 of 20,000 elements.",
)
@click.option(
    "--contender",
    "contenders",
    multiple=True,
    type=click.Choice(CONTENDERS),
    default=CONTENDERS,
    show_default=True,
    help="Server to measure, for `serving`; repeat for several.",
)
@click.option(
    "--clients",
    multiple=True,
    type=click.IntRange(min=1),
    default=[1, 32, 256],
    show_default=True,
    help="Clients at a time, for `serving`; repeat for several.",
)
@click.option(
    "--quick", is_flag=True, help="About two minutes of `serving`: one model, 32 clients, no repeated bodies."
)
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Also write one JSON file per suite here."
)
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def command(
    suites: tuple[str, ...],
    backends: tuple[Backend, ...],
    batch_sizes: tuple[int, ...],
    calls: int,
    hidden: tuple[int, ...],
    steps: int,
    rounds: int | None,
    workloads: tuple[str, ...],
    contenders: tuple[str, ...],
    clients: tuple[int, ...],
    quick: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """Measure SUITES (all but `serving` when none is named) on this machine.

    \b
    loop        what `fit` costs over a bare, hand-written loop on the same network
    inference   latency and throughput of the predictors, by batch size
    optimizers  a step of each optimizer over the memory's own speed, beside other libraries'
    serving     the server under load, beside other makers'; nine minutes, on an otherwise idle machine
    """
    from dlhpc.bench import contenders as servers
    from dlhpc.bench import inference, loop, optimizers, report, serving

    found: dict[str, Sequence[Result]] = {}
    beside = ""
    for suite in suites or WITHOUT_SERVERS:
        click.echo(f"measuring {suite} ...", err=True)
        if suite == "loop":
            found[suite] = [loop.measure(backend, hidden, steps=steps, rounds=rounds or 21) for backend in backends]
        elif suite == "optimizers":
            found[suite] = optimizers.measure(backends, workloads, rounds=rounds or 3)
        elif suite == "serving":
            plan = serving.plan(contenders, clients, rounds, quick=quick)
            found[suite] = serving.measure(plan, lambda text: click.echo(text, err=True))
            beside = servers.versions_of(contenders)
        else:
            found[suite] = inference.measure(backends, batch_sizes, calls=calls)
        if out is not None:
            command_line = shlex.join(["dlhpc", *_spelled(click.get_current_context())])
            click.echo(f"wrote {report.save(suite, command_line, found[suite], out, beside)}", err=True)
    if as_json:
        click.echo(json.dumps({suite: [asdict(r) for r in results] for suite, results in found.items()}, indent=2))
    else:
        for suite, results in found.items():
            for _, alike in itertools.groupby(results, type):
                _print_table(suite, list(alike))


def _spelled(context: click.Context) -> list[str]:
    """The command line that repeats this measurement."""
    words = ["bench", *context.params["suites"]]
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        if not isinstance(parameter, click.Option) or parameter.is_flag or parameter.name == "out" or value is None:
            continue
        for one in value if isinstance(value, (tuple, list)) else (value,):
            words += [parameter.opts[0], str(one)]
    return words


def _print_table(suite: str, results: Sequence[Result]) -> None:
    from rich.console import Console
    from rich.table import Table

    rows = [{k: v for k, v in asdict(result).items() if k != "ratios"} for result in results]
    table = Table(title=suite, title_justify="left")
    for name in rows[0]:
        table.add_column(name, justify="left" if isinstance(rows[0][name], str) else "right")
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    Console().print(table)
