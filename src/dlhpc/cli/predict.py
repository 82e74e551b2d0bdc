"""`dlhpc predict`: classify image files, with a model from the registry or by asking a server."""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from dlhpc.cli.locations import HELP, LOCATION
from dlhpc.cli.registry.options import require_signature
from dlhpc.errors import DataError, DlhpcError, NotFoundError, UsageError

BATCH = 64


@dataclass(frozen=True)
class Prediction:
    """What came of one file: a class, or an error."""

    file: str
    label: str | None
    probability: float | None
    model: str | None
    error: str | None


@click.command(
    epilog="""\b
Examples:
  dlhpc predict photo.png                                   the model published last
  dlhpc predict photos/ --model digits-mlp@production --out results.csv
  dlhpc predict photos/*.png --url http://127.0.0.1:8000 --json

\b
A server that asks for an API key gets the one in DLHPC_API_KEY.

\b
Exit status: 0 when every file was classified, 1 when some could not be (the
others still are), 4 without such a model or file."""
)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--model", "ref", metavar="REF", help="A published version: name, name:3, name@alias, sha256:<digits>.")
@click.option("--url", help="Ask this server instead, such as http://127.0.0.1:8000.")
@click.option(
    "--registry",
    "root",
    type=LOCATION,
    default="registry",
    show_default=True,
    help=HELP,
)
@click.option(
    "--backend", type=click.Choice(["flax", "torch"]), help="Framework to compute in; the trainer's if absent."
)
@require_signature
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE.csv", help="Write a CSV file.")
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    files: tuple[Path, ...],
    ref: str | None,
    url: str | None,
    root: str,
    backend: str | None,
    keys: tuple[Path, ...],
    out: Path | None,
    quiet: bool,
    as_json: bool,
) -> int:
    """Classify FILES: images, or folders of them.

    Computes with a model from the registry, or asks a server when --url is given.
    """
    if url is not None and (ref is not None or backend is not None or keys):
        raise UsageError("--url asks the server's own model: leave out --model, --backend and --require-signature")
    paths = list(_images(files))
    answers = _ask(url, paths) if url is not None else _compute(ref, root, backend, keys, paths)
    predictions = list(_shown(answers, len(paths), quiet))
    _write(predictions, out, as_json)
    failed = sum(prediction.error is not None for prediction in predictions)
    if failed:
        click.echo(f"error: {failed} of {len(predictions)} files could not be classified", err=True)
    return 1 if failed else 0


def _images(files: Sequence[Path]) -> Iterator[Path]:
    """The files, and the images in the folders."""
    from dlhpc.data.decode import SUFFIXES

    for path in files:
        if not path.exists():
            raise NotFoundError(f"{path}: no such file or folder")
        if not path.is_dir():
            yield path
            continue
        found = sorted(each for each in path.rglob("*") if each.suffix.lower() in SUFFIXES and each.is_file())
        if not found:
            raise NotFoundError(f"{path}: holds no image files ({', '.join(SUFFIXES)})")
        yield from found


def _ask(url: str, paths: list[Path]) -> Iterator[Prediction]:
    from dlhpc.client import Client

    with Client(url, api_key=os.environ.get("DLHPC_API_KEY")) as client:
        for path, reply in zip(paths, client.predict_many(paths), strict=True):
            if isinstance(reply, DlhpcError):
                yield Prediction(str(path), None, None, None, str(reply))
            else:
                yield Prediction(str(path), reply.label, reply.probabilities[reply.label], reply.model, None)


def _compute(
    ref: str | None, root: str, backend: str | None, keys: tuple[Path, ...], paths: list[Path]
) -> Iterator[Prediction]:
    import numpy as np

    from dlhpc import api
    from dlhpc.data.decode import decode_image

    registry = api.Registry(root)
    artifact = registry.get(ref or registry.newest().ref, require_signature=keys)
    names = registry.labels(artifact.digest)
    model = names[-1].ref if names else f"sha256:{artifact.digest}"
    predictor, shape = artifact.predictor(backend), artifact.manifest.run.model.input_shape
    assert shape is not None, "an artifact's run is resolved"
    for start in range(0, len(paths), BATCH):
        pixels, faults = [], {}
        for path in paths[start : start + BATCH]:
            try:
                pixels.append(decode_image(path.read_bytes(), shape))
            except (DataError, OSError) as error:
                faults[path] = str(error)
        rows: Iterator[Any] = iter(predictor(np.stack(pixels)) if pixels else ())
        for path in paths[start : start + BATCH]:
            if path in faults:
                yield Prediction(str(path), None, None, None, faults[path])
            else:
                row = next(rows)
                best = int(row.argmax())
                yield Prediction(str(path), artifact.classes[best], round(float(row[best]), 7), model, None)


def _shown(answers: Iterator[Prediction], total: int, quiet: bool) -> Iterator[Prediction]:
    """The answers, with a bar on a terminal and every fault named."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(file=sys.stderr)
    with Progress(console=console, disable=quiet or not console.is_terminal, transient=True) as progress:
        for prediction in progress.track(answers, total=total, description="classifying"):
            if prediction.error is not None:
                console.print(f"{prediction.file}: {prediction.error}", markup=False, highlight=False, soft_wrap=True)
            yield prediction


def _write(predictions: list[Prediction], out: Path | None, as_json: bool) -> None:
    from dlhpc.cli.output import console, print_json, table
    from dlhpc.files import write_atomic

    rows = [asdict(prediction) for prediction in predictions]
    if out is not None:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(Prediction.__dataclass_fields__), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomic(out, text.getvalue())
        click.echo(f"wrote {len(rows)} rows to {out}", err=True)
    if as_json:
        print_json(rows)
    elif out is None:
        shown = table("file", "label", "probability", "model", right=("probability",))
        for one in predictions:
            if one.error is None:
                shown.add_row(one.file, one.label, f"{one.probability:.4f}", one.model)
        console().print(shown)
