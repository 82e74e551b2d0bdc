"""`dlhpc registry derive` and `derived`: a version as a file in another format."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dlhpc.cli.output import bytes_text, console, print_json, table
from dlhpc.cli.registry.derived_text import accuracy_text, derived_json, derived_text
from dlhpc.cli.registry.options import REFERENCES, common, moment, open_registry
from dlhpc.errors import UsageError

if TYPE_CHECKING:
    from dlhpc.registry.derived_record import DerivedRecord

FORMATS = ("onnx", "stablehlo", "torch-export", "int8")
_BACKEND = click.option("--backend", type=click.Choice(["flax", "torch"]), help="The framework that writes it.")


@click.command(
    epilog=f"""\b
Examples:
  dlhpc registry derive digits-mlp --format onnx --out digits.onnx
  dlhpc registry derive digits-mlp --format onnx --backend torch
  dlhpc registry derive digits-mlp@production --format int8 --json

\b
Formats:
  onnx            from flax or torch; runs in onnxruntime
  stablehlo       from flax; runs in jax.export
  torch-export    from torch; runs in torch.export
  int8            kernels as int8 in a safetensors file, a quarter of the size

\b
The file is run, and kept with the version only if its answers are the version's own. It takes uint8 images
(N, height, width, channels) of any number and gives class probabilities.

{REFERENCES}"""
)
@click.argument("ref")
@click.option("--format", "form", type=click.Choice(FORMATS), required=True, help="The format.")
@_BACKEND
@click.option(
    "--tolerance",
    type=float,
    help="Largest difference of two probabilities over the largest one.  [default: 1e-5; int8 0.05]",
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write a copy of the file here.")
@common
def derive(
    ref: str, form: Any, backend: str | None, tolerance: float | None, out: Path | None, root: str, as_json: bool
) -> None:
    """Keep a version as a file in another format too, checked against the version's own answers."""
    from rich.console import Console

    registry = open_registry(root)
    seen = sys.stderr.isatty()
    with Console(stderr=True).status(f"{form} of {ref}: writing, running, comparing") if seen else nullcontext():
        record = registry.derive(ref, form, backend=backend, tolerance=tolerance)
    _finish(root, record, out, as_json)


@click.command(
    epilog=f"""\b
Examples:
  dlhpc registry derived digits-mlp
  dlhpc registry derived digits-mlp@production --format onnx --out digits.onnx

{REFERENCES}"""
)
@click.argument("ref")
@click.option("--format", "form", type=click.Choice(FORMATS), help="The newest of this format alone.")
@_BACKEND
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write a verified copy of it here.")
@common
def derived(ref: str, form: Any, backend: str | None, out: Path | None, root: str, as_json: bool) -> None:
    """The files that were derived from a version; or one of them, verified."""
    from dlhpc.registry.derived import find

    registry = open_registry(root)
    if form is not None:
        _finish(root, find(registry, ref, form, backend), out, as_json)
        return
    if backend is not None or out is not None:
        raise UsageError("--backend and --out belong to one file: say which with --format")
    records = registry.derived(ref)
    if as_json:
        print_json([derived_json(record) for record in records])
        return
    shown = table("format", "by", "size", "difference", "accuracy", "made", "sha256", title=ref, right=("size",))
    for record in records:
        shown.add_row(
            record.derivation,
            record.backend,
            bytes_text(record.file.size),
            f"{record.parity.max_relative:.2g}",
            accuracy_text(record),
            moment(record.at),
            record.file.sha256[:12],
        )
    console().print(shown)


def _finish(root: str, record: DerivedRecord, out: Path | None, as_json: bool) -> None:
    from dlhpc.files import write_atomic
    from dlhpc.registry.derived import read

    content = read(open_registry(root), record)
    if out is not None:
        write_atomic(out, content)
    if as_json:
        print_json({**derived_json(record), "out": None if out is None else str(out)})
        return
    click.echo(derived_text(record))
    click.echo(f"sha256:{record.file.sha256}" if out is None else f"{out}: sha256:{record.file.sha256}")
