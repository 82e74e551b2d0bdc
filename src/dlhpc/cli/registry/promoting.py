"""`dlhpc registry compare` and `promote`: two versions side by side, and the gates before an alias."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dlhpc.cli.output import console, print_json, table
from dlhpc.cli.registry.measuring import number, plan_of, plan_options, progress_bar
from dlhpc.cli.registry.options import REFERENCES, common, open_registry
from dlhpc.errors import DlhpcError, NotFoundError, UsageError

if TYPE_CHECKING:
    from dlhpc.registry.benchmark import BenchmarkPlan
    from dlhpc.registry.comparison import Comparison, Row
    from dlhpc.registry.promotion import Promotion

GATES = """\b
Gates are FIGURE[BACKEND,BATCH,DTYPE] OPERATOR THRESHOLD; the brackets may be left out, or say less:
  p99>+10%             10% more than the first version
  p50[torch,1]>+0.5    half a millisecond more, in torch, one image a call
  throughput<-5%       5% less
  accuracy<-0.5pt      half a percentage point less
  loss>+0.01           0.01 more
  p99>20  accuracy<0.9 without a sign: a limit to the second version's own value
Figures: p50 p99 first_call load (ms), throughput (images/s), memory size (MB), parity, and the metrics."""


@click.command(
    epilog=f"""\b
Examples:
  dlhpc registry compare digits-mlp@production digits-mlp
  dlhpc registry compare digits-mlp:1 digits-mlp:2 --measure --batch-sizes 1
  dlhpc registry compare digits-mlp:1 digits-mlp:2 --fail-if 'p99>+10%' --fail-if 'accuracy<-0.5pt'

\b
Exit status: 1 when a gate fails, 2 when one cannot be answered. Quote gates: the shell reads < and >.

{GATES}

{REFERENCES}"""
)
@click.argument("a")
@click.argument("b")
@click.option("--fail-if", "gates", multiple=True, metavar="GATE", help="Fail when it holds of B; may be repeated.")
@click.option(
    "--measure/--no-measure",
    "fresh",
    default=None,
    help="Measure both now, in turns.  [default: when a gate needs what was not measured in one session]",
)
@plan_options
@common
def compare(
    a: str,
    b: str,
    gates: tuple[str, ...],
    fresh: bool | None,
    root: str,
    as_json: bool,
    backends: tuple[str, ...],
    **given: Any,
) -> None:
    """Metrics, size and measured figures of versions A and B, with the change from A to B."""
    registry = open_registry(root)
    plan = plan_of(backends or (registry.manifest(b).run.backend,), **given)
    with progress_bar("measuring") as progress:
        found = registry.compare(a, b, fail_if=gates, measure=fresh, plan=plan, progress=progress)
    print_json(found.canonical()) if as_json else _print(a, b, found)
    failed, unanswered = found.verdicts_of("failed"), found.verdicts_of("unmeasurable")
    if failed:
        raise DlhpcError("\n  ".join([f"{b} against {a}:", *map(str, (*failed, *unanswered))]))
    if unanswered:
        advice = f"to measure both: dlhpc registry compare {a} {b} --measure"
        raise UsageError("\n  ".join(["gates that cannot be answered:", *map(str, unanswered)]) + f"\n{advice}")


@click.command(
    epilog=f"""\b
Examples:
  dlhpc registry promote digits-mlp@candidate production
  dlhpc registry promote digits-mlp:4 production --fail-if 'accuracy<-0.5pt' --fail-if 'p99[torch,1]>+10%'
  dlhpc registry promote digits-mlp:4 production --gates gates.txt
  dlhpc registry promote digits-mlp:4 production --override --note "hot fix; slower, agreed with the team"

\b
The candidate is read and verified, measured in turns with the version that the alias stands for,
and compared with it. The first promotion of a name is asked for limits only (gates without a sign).
Without --fail-if and --gates the gates are: accuracy<-0.5pt  p50>+25%  parity>1e-4
A file of gates has one a line; # begins a comment. Keep it beside your code, and review it there.
Exit status: 1 when a gate refuses, 2 when one cannot be answered, 4 when somebody moved the alias meanwhile.

{GATES}

{REFERENCES}"""
)
@click.argument("ref")
@click.argument("alias")
@click.option("--fail-if", "texts", multiple=True, metavar="GATE", help="Refuse when it holds; may be repeated.")
@click.option(
    "--gates", "file", type=click.Path(path_type=Path), help="Refuse when a gate of this file holds; besides --fail-if."
)
@click.option("--override", is_flag=True, help="Promote whatever the gates say; needs --note.")
@click.option("--note", default="", help="Why; kept in the history, with what the gates said.")
@click.option(
    "--measure/--no-measure",
    "fresh",
    default=True,
    show_default=True,
    help="Measure both now, in turns, or take what was measured in one session before.",
)
@plan_options
@common
def promote(
    ref: str,
    alias: str,
    texts: tuple[str, ...],
    file: Path | None,
    override: bool,
    note: str,
    fresh: bool,
    root: str,
    as_json: bool,
    backends: tuple[str, ...],
    **given: Any,
) -> None:
    """Let NAME@ALIAS stand for the version REF (of that name), if it passes the gates."""
    registry = open_registry(root)
    plan = plan_of(backends or (registry.manifest(ref).run.backend,), **given)
    gates = None if file is None and not texts else [*texts, *([] if file is None else _gates_in(file))]
    found = _promoted(registry, ref, alias, gates, override, note, fresh, plan, as_json)
    if as_json:
        print_json(found.canonical())
    elif found.move is None:
        click.echo(f"{found.name}@{alias} is {ref} already")
    else:
        _print_promotion(found)
        before = "" if found.move.moved_from is None else f" (before: {found.name}:{found.move.moved_from})"
        click.echo(f"{found.name}@{alias} is {found.name}:{found.move.moved_to}{before}")


def _promoted(
    registry: Any,
    ref: str,
    alias: str,
    gates: list[str] | None,
    override: bool,
    note: str,
    fresh: bool,
    plan: BenchmarkPlan,
    as_json: bool,
) -> Promotion:
    """The promotion; where it is refused, what was found is shown before the error."""
    from dlhpc.registry.promotion import PromotionRefusedError

    try:
        with progress_bar("measuring") as progress:
            found: Promotion = registry.promote(
                ref,
                alias,
                fail_if=gates,
                override=override,
                note=note,
                measure=fresh,
                plan=plan,
                progress=progress,
            )
    except PromotionRefusedError as refused:
        print_json(refused.promotion.canonical()) if as_json else _print_promotion(refused.promotion)
        raise
    return found


def _gates_in(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise NotFoundError(f"{file}: no such file of gates") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{file}: no text in UTF-8: {error.reason}") from error
    gates = [stripped for line in lines if (stripped := line.partition("#")[0].strip())]
    if not gates:
        raise UsageError(f"{file}: no gates in it; expected one a line, such as accuracy<-0.5pt")
    return gates


def _print_promotion(found: Promotion) -> None:
    if found.comparison is not None:
        _print(f"{found.name}@{found.alias}", "candidate", found.comparison)


def _print(a: str, b: str, found: Comparison) -> None:
    right = (a, b, "difference", "change")
    shown = table("figure", "unit", a, b, "difference", "change", title=_title(found), right=right)
    for row in found.rows:
        change = "" if row.relative is None else f"{row.relative:+.2f}%"
        difference = "" if row.difference is None else f"{row.difference:+.4g}"
        shown.add_row(str(row.place), row.place.unit, number(row.a), number(row.b), difference, change)
    screen = console()
    screen.print(shown)
    for verdict in found.verdicts:
        screen.print(f"{verdict.outcome}: {verdict.gate} ({verdict.detail})")
    reasons = dict.fromkeys(row.apart for row in found.rows if row.apart)
    for reason in reasons:
        screen.print(f"not compared: {_places(found.rows, reason)}: {reason}")
    if not any(row.a and row.b for row in found.rows if row.place.backend) and found.a is not None:
        screen.print(f"not measured together yet; to do so: dlhpc registry compare {a} {b} --measure")


def _title(found: Comparison) -> str | None:
    if found.session is None:
        return None
    return f"measured in turns on {found.hardware}" if found.a is not None else f"measured on {found.hardware}"


def _places(rows: tuple[Row, ...], reason: str) -> str:
    places = [str(row.place) for row in rows if row.apart == reason]
    return ", ".join(places[:3]) + (f" and {len(places) - 3} more" if len(places) > 3 else "")
