"""`dlhpc config`: check, show, explain, write and compare configurations, before anything runs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from dlhpc.cli.config_help import describe_keys, json_key, list_keys, matching
from dlhpc.cli.output import console, print_json, table
from dlhpc.errors import ConfigError, ConflictError, DlhpcError, UsageError
from dlhpc.files import write_atomic
from dlhpc.spec.catalogue import catalogue
from dlhpc.spec.layers import Form
from dlhpc.spec.load import RUN, SERVING, Loaded, file_form, guess_form, trace
from dlhpc.spec.run import MODEL_NAMES
from dlhpc.spec.schema import file_schema
from dlhpc.spec.write import commented, flow, to_yaml

SPEC_KEYS: Mapping[str, str] = {"model.name": "backend"}
"""Keys of files -> the key of the spec that remembers their place."""
ESSENTIAL = ("training.num_epochs", "training.batch_size", "training.learning_rate")

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
set_option = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one setting; may be repeated."
)
serving_option = click.option("--serving", is_flag=True, help="A server's settings instead of a training run's.")


@click.group(
    epilog="""\b
Settings come from, each over the one before:
  1. defaults                     dlhpc config explain
  2. the files under 'extends:'   extends: base.yaml
  3. the file itself              dlhpc train run.yaml
  4. the environment              DLHPC_TRAINING__LEARNING_RATE=0.01
  5. --set                        --set training.learning_rate=0.01

\b
Examples:
  dlhpc config init run.yaml
  dlhpc config check config/*.yaml
  dlhpc config explain training.learning_rate"""
)
def command() -> None:
    """Check, show, explain, write and compare configuration files."""


@command.command(
    epilog="""\b
Examples:
  dlhpc config check run.yaml
  dlhpc config check config/*.yaml --json"""
)
@click.argument("files", nargs=-1, required=True, metavar="CONFIG...", type=click.Path(path_type=Path))
@set_option
@json_option
def check(files: tuple[Path, ...], overrides: tuple[str, ...], as_json: bool) -> None:
    """Check files of runs and servers: every problem with file, line and column. Exit status 2 when there is any."""
    reports = [(path, _check(path, overrides)) for path in files]
    failures = [error for _, error in reports if error is not None]
    if as_json:
        print_json({"ok": not failures, "files": [_report(path, error) for path, error in reports]})
        click.get_current_context().exit(_status(failures))
    for path, error in reports:
        if error is None:
            click.echo(f"{path}: ok")
    if len(failures) == 1:
        raise failures[0]
    if failures:
        raise ConfigError([problem for error in failures for problem in _problems(error)])


def _check(path: Path, overrides: tuple[str, ...]) -> DlhpcError | None:
    try:
        trace(guess_form(path), path, overrides=overrides)
    except DlhpcError as error:
        return error
    return None


def _problems(error: DlhpcError) -> tuple[str, ...]:
    return error.problems if isinstance(error, ConfigError) else (str(error),)


def _report(path: Path, error: DlhpcError | None) -> dict[str, Any]:
    return {"file": str(path), "ok": error is None, "problems": list(_problems(error)) if error else []}


def _status(failures: list[DlhpcError]) -> int:
    """As without --json: one failure's own status, several failures' 2."""
    return ConfigError.exit_code if len(failures) > 1 else next((error.exit_code for error in failures), 0)


@command.command(
    epilog="""\b
Examples:
  dlhpc config show run.yaml
  dlhpc config show run.yaml --origin --set training.batch_size=32
  dlhpc config show --serving"""
)
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.option("--origin", is_flag=True, help="Say behind each value where it came from.")
@set_option
@serving_option
@json_option
def show(config: Path | None, origin: bool, overrides: tuple[str, ...], serving: bool, as_json: bool) -> None:
    """Print all settings as they will count, as a file: defaults, CONFIG, environment and --set put together."""
    loaded = trace(_form(config, serving), config, overrides=overrides)
    values = file_form(loaded.spec)
    if as_json:
        origins = {key: _origin(loaded, key) for key, _ in _flat(values)}
        print_json({"values": values, "origins": origins} if origin else values)
        return
    for line in to_yaml(values, lambda key: _origin(loaded, key) if origin else None):
        click.echo(line)


def _origin(loaded: Loaded, key: str) -> str:
    place = loaded.places.get(SPEC_KEYS.get(key, key))
    if place is None:
        return "default"
    return place.origin if place.line is None else f"{place.origin}:{place.line}"


@command.command(
    epilog="""\b
Examples:
  dlhpc config explain
  dlhpc config explain training
  dlhpc config explain data.split.method
  dlhpc config explain batching --serving"""
)
@click.argument("key", required=False)
@serving_option
@json_option
def explain(key: str | None, serving: bool, as_json: bool) -> None:
    """Explain a KEY: what it takes, its default, its choices, and how to set it. Without KEY: list all."""
    form = SERVING if serving else RUN
    keys = catalogue(form)
    found = keys if key is None else matching(keys, key, form)
    if as_json:
        print_json([json_key(each, form) for each in found])
    elif key is None:
        console().print(list_keys(keys))
    else:
        describe_keys(found, keys, form)


@command.command(
    epilog="""\b
Examples:
  dlhpc config init
  dlhpc config init flowers.yaml --model FlaxCNN --data photos/
  dlhpc config init run.yaml --model TorchDeepSpeedMLP --data digits"""
)
@click.argument("path", default="run.yaml", type=click.Path(path_type=Path))
@click.option("--model", type=click.Choice(list(MODEL_NAMES)), default="FlaxMLP", show_default=True)
@click.option(
    "--data",
    default="digits",
    show_default=True,
    metavar="SOURCE|DIR|FILE.npz",
    help="digits, synthetic, a folder with a sub-folder of images per class, or an .npz file.",
)
@serving_option
@json_option
def init(path: Path, model: str, data: str, serving: bool, as_json: bool) -> None:
    """Write a commented file with every setting to PATH (run.yaml by default). Never overwrites."""
    form = SERVING if serving else RUN
    given = {"port": 8000, "host": "127.0.0.1"} if serving else _given(model, data)
    choices = [f"{key}: {value}" for key, value in given.items()]
    keys = [key for key in catalogue(form) if all(_holds(when, choices) for when in key.when)]
    verb = "serve" if serving else "train"
    head = (
        f"# Settings of a {'server' if serving else 'training run'}. What is commented out has the value shown.",
        "#",
        f"#   dlhpc config check {path}",
        f"#   dlhpc {verb} {path}",
    )
    if path.exists():
        raise ConflictError(f"{path} exists already: give another path, or remove it first")
    write_atomic(path, "\n".join((*head, *commented(keys, given))) + "\n")
    if as_json:
        print_json({"path": str(path)})
    else:
        click.echo(f"{path} written; go on with: dlhpc {verb} {path}")


def _given(model: str, data: str) -> dict[str, Any]:
    """The settings that a new file switches on."""
    defaults = {key.path: key.default for key in catalogue(RUN)}
    if data in {"digits", "synthetic"}:
        source: dict[str, Any] = {"data.source": data}
    elif data.endswith(".npz"):
        source = {"data.source": "arrays", "data.path": data}
    elif data.endswith(os.sep) or Path(data).is_dir():
        source = {"data.source": "image_folder", "data.path": data}
    else:
        raise UsageError(f"--data {data}: expected 'digits', 'synthetic', an existing folder, or an .npz file")
    return {"model.name": model, **source, **{key: defaults[key] for key in ESSENTIAL}}


def _holds(when: str, choices: list[str]) -> bool:
    tag, _, names = when.partition(": ")
    chosen = next((c.partition(": ")[2] for c in choices if c.startswith(f"{tag}: ")), None)
    if chosen is None:
        chosen = next(key.default for key in catalogue(RUN) if key.path == tag)
    return chosen in names.split(" or ")


@command.command(
    epilog="""\b
Examples:
  dlhpc config diff config/flax_config.yaml config/flax_cnn.yaml
  dlhpc config diff runs/latest/run.json run.yaml --json"""
)
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@json_option
def diff(a: Path, b: Path, as_json: bool) -> None:
    """Compare what two files amount to, defaults included. A and B may be the run.json of finished runs."""
    left, right = (dict(_flat(file_form(trace(guess_form(path), path, environ={}).spec))) for path in (a, b))
    missing = object()
    keys = list(dict.fromkeys((*left, *right)))
    changed = [key for key in keys if left.get(key, missing) != right.get(key, missing)]
    if as_json:
        sides = [{"key": key, "a": left.get(key), "b": right.get(key)} for key in changed]
        print_json({"equal": not changed, "changes": sides})
        return
    if not changed:
        click.echo("no difference")
        return
    rows = table("key", str(a), str(b))
    for key in changed:
        rows.add_row(key, *(flow(side[key]) if key in side else "-" for side in (left, right)))
    console().print(rows)


@command.command(
    epilog="""\b
Examples:
  dlhpc config schema > dlhpc.schema.json
  # then, as the first line of a YAML file, for editors with a YAML language server:
  # yaml-language-server: $schema=dlhpc.schema.json"""
)
@serving_option
@click.option("--json", is_flag=True, expose_value=False, help="As it is: the schema is JSON.")
def schema(serving: bool) -> None:
    """Print the JSON Schema of a file, for editors and other checkers."""
    print_json(file_schema(SERVING if serving else RUN))


def _form(path: Path | None, serving: bool) -> Form:
    if serving:
        return SERVING
    return RUN if path is None else guess_form(path)


def _flat(values: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        dotted = f"{path}.{key}" if path else key
        if isinstance(value, Mapping):
            yield from _flat(value, dotted)
        else:
            yield dotted, value
