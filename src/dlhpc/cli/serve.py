"""`dlhpc serve`: a published model behind HTTP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dlhpc.cli.locations import HELP, LOCATION

if TYPE_CHECKING:
    from dlhpc.serving.plan import Plan
    from dlhpc.spec.serving import ServingSpec


@click.command(
    epilog="""\b
Examples:
  dlhpc serve                                 the model published last
  dlhpc serve digits-mlp@production
  dlhpc serve digits-mlp:3 --set backend=torch --set port=9000
  dlhpc serve --config config/serve_config.yaml

\b
Then, from another terminal:
  dlhpc predict --url http://127.0.0.1:8000 photo.png
  curl http://127.0.0.1:8080/metrics

\b
SIGTERM or Ctrl-C drains: new predictions are refused with 503, those in flight
complete. A second one stops at once."""
)
@click.argument("ref", required=False)
@click.option(
    "--config", type=click.Path(path_type=Path), metavar="FILE", help="A YAML file with the server's settings."
)
@click.option("--registry", "root", type=LOCATION, help=HELP)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change one setting, such as port=9000 or limits.deadline_s=2; may be repeated.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON when the server is ready.")
def command(ref: str | None, config: Path | None, root: str | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """Serve the published version REF (by default the one published last) over HTTP until SIGTERM or Ctrl-C.

    REF is name, name:3, name@alias or sha256:<digits>.
    """
    from dlhpc.serving.serve_ray import serve
    from dlhpc.spec.load import load_serving

    given = [f"{key}={json.dumps(str(value))}" for key, value in (("model", ref), ("registry", root)) if value]
    spec = load_serving(config, overrides=[*overrides, *given])
    serve(spec, lambda plan: _ready(spec, plan, as_json))


def _ready(spec: ServingSpec, plan: Plan, as_json: bool) -> None:
    if as_json:
        info = plan.models[0].stable
        told = {"url": spec.url, "metrics": spec.metrics_url, "model": info.name, "digest": info.digest}
        models = {model.name: model.stable.digest for model in plan.models}
        click.echo(json.dumps({**told, "backend": info.backend, "models": models}))
    click.echo(f"ready: POST {spec.url}/predict, metrics at {spec.metrics_url}; Ctrl-C stops", err=True)
