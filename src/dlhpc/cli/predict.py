"""`dlhpc predict`: classify image files, with a model from the registry or by asking a server."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dlhpc.cli.locations import HELP, LOCATION
from dlhpc.cli.registry.options import require_signature
from dlhpc.cli.results import Prediction, Results
from dlhpc.errors import DataError, DlhpcError, Interrupted, NotFoundError, UsageError

if TYPE_CHECKING:
    from dlhpc.client import AsyncClient, Outcome

BATCH = 64


@click.command(
    epilog="""\b
Examples:
  dlhpc predict photo.png                                   the model published last
  dlhpc predict photos/ --model digits-mlp@production --out results.csv
  dlhpc predict photos/*.png --url http://127.0.0.1:8000 --json
  dlhpc predict photos/ --url https://example.org --out results.csv --resume

\b
A server that asks for an API key gets the one in DLHPC_API_KEY.

\b
What is done is kept in results.csv.partial until results.csv is whole. After
Ctrl-C, or when the server is gone, --resume asks only for what is missing or
failed; after the end, only for files that are new.

\b
Exit status: 0 when every file was classified, 1 when some could not be (the
others still are), 4 without such a model or file, 130 after Ctrl-C."""
)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--model",
    "ref",
    metavar="REF",
    help="A published version: name, name:3, name@alias, sha256:<digits>. With --url one of the server's models.",
)
@click.option("--url", help="Ask this server instead, such as http://127.0.0.1:8000.")
@click.option("--concurrency", type=click.IntRange(1), default=8, show_default=True, help="Requests at a time.")
@click.option("--ca", "authorities", type=click.Path(path_type=Path), metavar="FILE.pem", help="Whom https trusts.")
@click.option("--proxy", metavar="URL", help="Ask the server by way of this proxy.")
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
@click.option("--resume", is_flag=True, help="Go on with the file that --out names.")
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    files: tuple[Path, ...],
    ref: str | None,
    url: str | None,
    concurrency: int,
    authorities: Path | None,
    proxy: str | None,
    root: str,
    backend: str | None,
    keys: tuple[Path, ...],
    out: Path | None,
    resume: bool,
    quiet: bool,
    as_json: bool,
) -> int:
    """Classify FILES: images, or folders of them.

    Computes with a model from the registry, or asks a server when --url is given.
    """
    if url is not None and (backend is not None or keys):
        raise UsageError("--url asks a server, which has its own: leave out --backend and --require-signature")
    if url is None and (authorities is not None or proxy is not None):
        raise UsageError("--ca and --proxy are about a server: name it with --url")
    paths = list(dict.fromkeys(_images(files)))
    with Results(out, resume=resume) as results:
        left = [path for path in paths if not results.is_done(path)]
        if url is not None:
            answers = _ask(url, ref, left, concurrency, authorities or True, proxy)
        else:
            answers = _compute(ref, root, backend, keys, left)
        _collect(results, answers, paths, quiet)
        predictions = results.finish(paths)
    _print(predictions, out, as_json)
    failed = sum(prediction.error is not None for prediction in predictions)
    if failed:
        click.echo(f"error: {failed} of {len(predictions)} files could not be classified", err=True)
    return 1 if failed else 0


def _collect(results: Results, answers: Generator[Prediction], paths: list[Path], quiet: bool) -> None:
    """Keep the answers; when that ends early, say what is done."""
    try:
        done = sum(results.is_done(path) for path in paths)
        with closing(_shown(answers, done, len(paths), quiet)) as shown:
            for prediction in shown:
                results.add(prediction)
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted: {results.where(paths)}") from None
    except DlhpcError:
        if any(results.is_done(path) for path in paths):
            click.echo(results.where(paths), err=True)
        raise


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


def _ask(
    url: str, model: str | None, paths: list[Path], concurrency: int, verify: Path | bool, proxy: str | None
) -> Generator[Prediction]:
    """What the server says of each file. Ctrl-C does not wait for what is in flight."""
    from dlhpc.client import AsyncClient

    client = AsyncClient(url, model=model, api_key=os.environ.get("DLHPC_API_KEY"), verify=verify, proxy=proxy)
    with asyncio.Runner() as runner:
        replies = client.predict_many(paths, concurrency=concurrency)
        try:
            for path in paths:
                yield _prediction(path, runner.run(_next(replies)))
        finally:
            runner.run(_closed(replies, client))


async def _next(replies: AsyncGenerator[Outcome]) -> Outcome:
    return await anext(replies)


async def _closed(replies: AsyncGenerator[Outcome], client: AsyncClient) -> None:
    await replies.aclose()
    await client.aclose()


def _prediction(path: Path, reply: Outcome) -> Prediction:
    """A row. Raises what would come of every other file too: nobody answers there, or nobody with this key."""
    from dlhpc.client import RequestError, UnreachableError

    match reply:
        case UnreachableError() | RequestError(status=401 | 403 | 404 | 405):
            raise reply
        case DlhpcError():
            return Prediction(str(path), None, None, None, str(reply))
        case _:
            return Prediction(str(path), reply.label, reply.probability, reply.model, None)


def _compute(
    ref: str | None, root: str, backend: str | None, keys: tuple[Path, ...], paths: list[Path]
) -> Generator[Prediction]:
    import numpy as np

    from dlhpc import api
    from dlhpc.data.decode import decode_image

    if not paths:
        return
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


def _shown(answers: Generator[Prediction], done: int, total: int, quiet: bool) -> Generator[Prediction]:
    """The answers, with a bar on a terminal and every fault named."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    console = Console(file=sys.stderr)
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    is_off = quiet or not console.is_terminal
    with closing(answers), Progress(*columns, console=console, disable=is_off, transient=True) as progress:
        task = progress.add_task("classifying", total=total, completed=done)
        for prediction in answers:
            if prediction.error is not None:
                console.print(f"{prediction.file}: {prediction.error}", markup=False, highlight=False, soft_wrap=True)
            yield prediction
            progress.advance(task)


def _print(predictions: list[Prediction], out: Path | None, as_json: bool) -> None:
    from dlhpc.cli.output import console, print_json, table

    if out is not None:
        click.echo(f"wrote {len(predictions)} rows to {out}", err=True)
        models = sorted({one.model for one in predictions if one.model is not None})
        if len(models) > 1:
            click.echo(
                f"note: {len(models)} versions answered, as the column 'model' says: {', '.join(models)}", err=True
            )
    if as_json:
        print_json([asdict(prediction) for prediction in predictions])
    elif out is None:
        shown = table("file", "label", "probability", "model", right=("probability",))
        for one in predictions:
            if one.error is None:
                shown.add_row(one.file, one.label, f"{one.probability:.4f}", one.model)
        console().print(shown)
