"""`dlhpc train`: the run that a file describes, from data to published model."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dlhpc.cli.output import print_json
from dlhpc.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from dlhpc.api import Trained
    from dlhpc.spec.run import RunSpec

DEFAULT_RUN = Path(__file__).with_name("default_run.yaml")


@click.command(
    epilog="""\b
Examples:
  dlhpc train config/flax_config.yaml
  dlhpc train config/flax_config.yaml --set training.num_epochs=5 --set model.name=TorchDeepSpeedMLP
  dlhpc train --data photos/                 one sub-folder of images per class
  dlhpc train --data digits.npz --set model.name=FlaxMLP
  dlhpc train --set data.source=digits
  dlhpc train --resume latest
  deepspeed src/training/train_torch.py --deepspeed_config config/deepspeed_config.json"""
)
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.option(
    "--config",
    "config_option",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The same as CONFIG, as launch scripts write it.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True),
    metavar="DIR|FILE.npz",
    help="Train on this: a folder with a sub-folder of images per class, or an .npz file.",
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change one setting, such as training.num_epochs=5; may be repeated.",
)
@click.option(
    "--resume",
    metavar="RUN|latest",
    help="Go on with an interrupted run: its folder, its name, one of its checkpoints, or the latest.",
)
@click.option(
    "--deepspeed_config",
    "--deepspeed-config",
    type=click.Path(path_type=Path),
    metavar="FILE.json",
    help="DeepSpeed settings to merge into the run.",
)
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--local_rank", "--local-rank", type=int, hidden=True, help="Passed by launchers; LOCAL_RANK counts.")
@click.option(
    "--expect-backend",
    type=click.Choice(["flax", "torch"]),
    hidden=True,
    help="Refuse a run of the other framework: for scripts that are named after one.",
)
@click.option(
    "--default-config", type=click.Path(path_type=Path), hidden=True, help="CONFIG when none is given: for scripts."
)
def command(
    config: Path | None,
    config_option: Path | None,
    default_config: Path | None,
    resume: str | None,
    expect_backend: str | None,
    quiet: bool,
    as_json: bool,
    local_rank: int | None,
    **settings: Any,
) -> None:
    """Train the run that CONFIG describes and publish its best weights.

    Shows progress on stderr and the result on stdout. Everything the run leaves is in its folder under runs/: spec,
    history, checkpoints, result. Ctrl-C writes a checkpoint and says how to go on. Without CONFIG, --data or a
    data.source is enough: a small CNN is trained.
    """
    del local_rank  # LOCAL_RANK in the environment says the same
    from dlhpc import api
    from dlhpc.training.callbacks import progress

    if config is not None and config_option is not None:
        raise UsageError(f"CONFIG was given twice: {config} and --config {config_option}")
    config = config or config_option
    folder = None
    if resume is not None:
        folder = _find(resume, config, settings["overrides"])
        config = config or _run_file(folder)
    run = _load(config or default_config, **settings)
    if expect_backend is not None and run.backend != expect_backend:
        script = "train_flax.py" if run.backend == "flax" else "train_torch.py"
        raise ConfigError(
            f"{config or default_config}: model.name: {run.model_name} came, but this script trains {expect_backend}; "
            f"use src/training/{script}"
        )
    trained = api.train_run(run, callbacks=[] if quiet else [progress()], resume=folder)
    if trained.folder is not None:
        _print(trained, as_json)


def _load(
    config: Path | None, *, data: Path | None, overrides: tuple[str, ...], deepspeed_config: Path | None
) -> RunSpec:
    """The run that the options describe."""
    from dlhpc.spec.deepspeed_json import merge_deepspeed
    from dlhpc.spec.load import RUN, trace

    if config is None and data is None and not any(text.startswith("data.source") for text in overrides):
        raise UsageError(
            "nothing to train on: give a CONFIG (dlhpc train config/flax_config.yaml), a folder of images "
            "(--data DIR), or a source (--set data.source=digits)"
        )
    loaded = trace(RUN, config or DEFAULT_RUN, overrides=[*_data_overrides(data), *overrides])
    if deepspeed_config is not None:
        return merge_deepspeed(deepspeed_config, loaded, int(os.environ.get("WORLD_SIZE", "1")))
    run: RunSpec = loaded.spec
    return run


def _data_overrides(data: Path | None) -> list[str]:
    """--data in the form of --set."""
    if data is None:
        return []
    if data.is_file() and data.suffix != ".npz":
        raise UsageError(f"--data {data}: expected a folder with a sub-folder of images per class, or an .npz file")
    source = "image_folder" if data.is_dir() else "arrays"
    return [f"data.source={source}", f"data.path={json.dumps(str(data))}"]


def _find(resume: str, config: Path | None, overrides: tuple[str, ...]) -> Path:
    """The run folder or checkpoint that --resume means; names are looked up in the run's runs_dir."""
    from dlhpc.spec.load import load_run
    from dlhpc.training.checkpoint import MANIFEST
    from dlhpc.training.run_folder import find_run

    if (Path(resume) / MANIFEST).exists():
        return Path(resume)
    places = [text for text in overrides if text.startswith("runs_dir=")]
    return find_run(resume, load_run(config, overrides=places).runs_dir)


def _run_file(folder: Path) -> Path:
    """The run.json of a run folder, or of the run that a checkpoint belongs to."""
    from dlhpc.training.checkpoint import MANIFEST
    from dlhpc.training.run_folder import run_of

    return (run_of(folder) if (folder / MANIFEST).exists() else folder) / "run.json"


def _print(trained: Trained, as_json: bool) -> None:
    result = {**trained.result, "run": str(trained.folder)}
    if as_json:
        print_json(result)
        return
    validation = result["validation"]
    measured = "none"
    if validation is not None:
        measured = f"accuracy {validation['accuracy']:.4f}, loss {validation['loss']:.4f}"
        measured += f" after epoch {validation['epoch']:g}"
    lines = {
        "model": f"{result['model']} on {result['data']}",
        "steps": f"{result['steps']} in {result['seconds']:.1f} s, {result['examples_per_second']:,.0f} examples/s",
        "validation": measured,
        "run": result["run"],
        "published": "no" if result["reference"] is None else f"{result['reference']} in {result['registry']}",
        "digest": result["digest"],
    }
    for name, text in lines.items():
        click.echo(f"{name + ':':<12}{text}")
    if result["reference"] is not None:
        click.echo(f"{'next:':<12}dlhpc evaluate {result['reference']}")
