"""`dlhpc registry diff` and `search`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from dlhpc.cli.output import console, print_json, table
from dlhpc.cli.registry.options import REFERENCES, common, open_registry
from dlhpc.cli.registry.reading import print_versions, summary, version_json

if TYPE_CHECKING:
    from dlhpc.registry.diff import Change, Difference


@click.command(
    epilog=f"""\b
Examples:
  dlhpc registry diff digits-mlp:1 digits-mlp:2
  dlhpc registry diff digits-mlp@production digits-mlp --no-weights --json

\b
The relative difference of a tensor is |b - a| / |a|, by Euclidean norms.

{REFERENCES}"""
)
@click.argument("a")
@click.argument("b")
@click.option("--weights/--no-weights", default=True, show_default=True, help="Whether to compare tensor by tensor.")
@common
def diff(a: str, b: str, weights: bool, root: str, as_json: bool) -> None:
    """How two versions differ: settings, metrics, environment, origin, files, and weights."""
    found = open_registry(root).diff(a, b, weights=weights)
    if as_json:
        print_json(found.canonical())
    elif found.a == found.b:
        click.echo(f"{a} and {b} are the same version: sha256:{found.a}")
    else:
        _print_difference(a, b, found)


@click.command(
    epilog="""\b
Examples:
  dlhpc registry search 'accuracy>=0.98'
  dlhpc registry search 'name~digits-*' tag.stage=gold optimizer.name=lion
  dlhpc registry search 'model.hidden_sizes=[256,128]' --json

\b
Keys:
  name number digest alias published_at published_by published_from
  model backend data_fingerprint commit parent
  tag.KEY  metric.KEY  environment.KEY  run.KEY
  any metric (accuracy, loss) and any setting of the run (training.batch_size)
Operators: = != < <= > >= and ~ (a pattern of * ? [abc]). Quote what the shell would read: < > * ["""
)
@click.argument("conditions", nargs=-1, metavar="[CONDITION]...")
@common
def search(conditions: tuple[str, ...], root: str, as_json: bool) -> None:
    """The versions of all names that fulfil every CONDITION (KEY OPERATOR VALUE), oldest first."""
    matches = open_registry(root).search(*conditions)
    if as_json:
        print_json([{**version_json(each.version), **summary(each.manifest), "tags": each.tags} for each in matches])
    elif matches:
        print_versions([(each.version, each.manifest) for each in matches], [each.tags for each in matches])
    else:
        click.echo("no version fulfils " + (" and ".join(conditions) or "this"))


def _print_difference(a: str, b: str, found: Difference) -> None:
    for title, changes in (
        ("settings", found.spec),
        ("environment", found.environment),
        ("origin", found.origin),
        ("files", found.files),
    ):
        if changes:
            _print_changes(title, a, b, changes)
    shown = table("metric", a, b, "difference", title="metrics", right=(a, b, "difference"))
    for metric in found.metrics:
        shown.add_row(metric.name, _number(metric.a), _number(metric.b), _number(metric.difference, "+.6g"))
    console().print(shown)
    if found.tensors is not None:
        shown = table("tensor", "shape", f"|{a}|", f"|{b}|", "relative", "largest", title="weights")
        for tensor in found.tensors:
            shapes = [_shape(shape) for shape in (tensor.shape_a, tensor.shape_b)]
            shown.add_row(
                tensor.name,
                shapes[0] if shapes[0] == shapes[1] else " -> ".join(shapes),
                _number(tensor.norm_a),
                _number(tensor.norm_b),
                _number(tensor.relative),
                _number(tensor.largest),
            )
        console().print(shown)


def _print_changes(title: str, a: str, b: str, changes: tuple[Change, ...]) -> None:
    shown = table("key", a, b, title=title)
    for change in changes:
        shown.add_row(change.key, _value(change.a), _value(change.b))
    console().print(shown)


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _number(value: float | None, form: str = ".6g") -> str:
    return "" if value is None else format(value, form)


def _shape(shape: tuple[int, ...] | None) -> str:
    return "(absent)" if shape is None else " x ".join(map(str, shape)) or "one number"
