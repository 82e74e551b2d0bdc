"""`dlhpc registry export`, `import` and `publish`: folders and files that become versions, and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dlhpc.cli.output import print_json
from dlhpc.cli.registry.exchanging import byte_bar
from dlhpc.cli.registry.options import REFERENCES, common, open_registry
from dlhpc.cli.registry.reading import version_json
from dlhpc.errors import UsageError

if TYPE_CHECKING:
    from dlhpc.registry.foreign_weights import Naming
    from dlhpc.registry.store import Version

_PATH = click.Path(path_type=Path)
_NAME = click.option("--name", required=True, help="Name to publish under.")
_ALIAS = click.option("--alias", help="Alias to set on the version.")
_NOTE = click.option("--note", default="", help="Why; kept in the history.")


@click.command(
    epilog=f"""\b
Examples:
  dlhpc registry export digits-mlp@production model
  dlhpc registry import model --name digits-mlp

\b
Writes model.safetensors, config.json, README.md (a model card with metadata,
results and how to use it), manifest.json and SHA256SUMS. The verb `get`
writes the version's own files alone, with their signatures.

{REFERENCES}"""
)
@click.argument("ref")
@click.argument("folder", type=_PATH)
@common
def export(ref: str, folder: Path, root: str, as_json: bool) -> None:
    """Write a version to a new FOLDER of the kind that model hubs such as Hugging Face keep."""
    from dlhpc.registry.model_folder import export_model

    with byte_bar() as progress:
        digest = export_model(open_registry(root), ref, folder, progress=progress)
    files = sorted(path.name for path in folder.iterdir())
    if as_json:
        print_json({"ref": ref, "digest": digest, "folder": str(folder), "files": files})
    else:
        click.echo(f"{folder}: {', '.join(files)} of {ref} (sha256:{digest})")


@click.command(
    "import",
    epilog="""\b
Examples:
  dlhpc registry import model --name digits-mlp
  dlhpc registry import theirs.safetensors --config config/flax_config.yaml --name theirs \\
    --set model.input_shape=[8,8,1] --set model.num_classes=10
  dlhpc registry import theirs.safetensors --config run.yaml --layout torch --map names.json --name theirs

\b
A folder of `registry export` (or `get`) gives the same version with the same
digest, or is refused. A safetensors file needs the configuration of a run whose
model it fits. Names and axes are canonical (dense_0/kernel, (in, out)), which are
Flax's here, or with --layout torch those of a state_dict (dense_0.weight,
(out, in)); --map is a JSON or YAML file: name in the file -> canonical name.
Metrics, data and parents are left open: `dlhpc evaluate` measures.""",
)
@click.argument("source", type=_PATH)
@_NAME
@click.option("--config", type=_PATH, help="The run whose model a safetensors file is of.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one setting; may be repeated.")
@click.option("--layout", "naming", type=click.Choice(["canonical", "flax", "torch"]), default="canonical",
              show_default=True, help="Whose names and axes the file has.")  # fmt: skip
@click.option("--map", "names", type=_PATH, help="Names in the file -> canonical names.")
@click.option("--backend", type=click.Choice(["flax", "torch"]), help="Framework to predict in; the run's by default.")
@click.option("--trained-on-data", is_flag=True, help="The run's data is what it learnt from: open it.")
@_ALIAS
@_NOTE
@common
def import_command(
    source: Path,
    name: str,
    config: Path | None,
    overrides: tuple[str, ...],
    naming: Naming,
    names: Path | None,
    backend: str | None,
    trained_on_data: bool,
    alias: str | None,
    note: str,
    root: str,
    as_json: bool,
) -> None:
    """Publish an exported folder, or a safetensors file that fits a run's model."""
    from dlhpc.publication import import_weights
    from dlhpc.registry.model_folder import import_folder
    from dlhpc.spec.load import load_run, merge

    with byte_bar() as progress:
        if source.is_dir():
            if config or overrides or names or backend or trained_on_data or naming != "canonical":
                raise UsageError(f"{source} is a folder: it says itself what it is; give --name, --alias, --note only")
            version = import_folder(open_registry(root), source, name, alias=alias, note=note, progress=progress)
        else:
            if config is None:
                raise UsageError(f"{source} is no folder: give --config, the run whose model its tensors are of")
            run = load_run(config, overrides=overrides)
            run = run if backend is None else merge(run, {"backend": backend}, "--backend")
            version = import_weights(
                open_registry(root),
                source,
                run,
                name,
                naming=naming,
                names=names,
                trained_on_data=trained_on_data,
                alias=alias,
                note=note,
                progress=progress,
            )
    _say(source, version, as_json)


@click.command(
    epilog="""\b
Examples:
  dlhpc train config/flax_config.yaml --set registry.publish=false
  dlhpc registry publish runs/digits-mlp-20261124T120000Z-ab12 --name digits-mlp --alias candidate
  dlhpc registry publish model --name digits-mlp --note "from the other site\""""
)
@click.argument("source", type=_PATH)
@_NAME
@_ALIAS
@_NOTE
@common
def publish(source: Path, name: str, alias: str | None, note: str, root: str, as_json: bool) -> None:
    """Publish the best weights of a finished run's folder, or an exported folder."""
    from dlhpc.publication import publish_folder

    with byte_bar() as progress:
        version = publish_folder(open_registry(root), source, name, alias=alias, note=note, progress=progress)
    _say(source, version, as_json)


def _say(source: Path, version: Version, as_json: bool) -> None:
    if as_json:
        print_json({"source": str(source), **version_json(version)})
    else:
        named = "".join(f", {version.name}@{alias}" for alias in version.aliases)
        click.echo(f"{source} is {version.ref}{named} (sha256:{version.digest})")
