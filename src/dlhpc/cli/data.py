"""`dlhpc data`: look at a data set as training would see it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from dlhpc.data.parted import PartedDataset
    from dlhpc.spec.run import RunSpec

SHOWN_CLASSES = 40
"""Classes listed on a terminal; --json has them all."""


@click.group(
    epilog="""\b
Example:
  dlhpc data describe config/flax_config.yaml --contact-sheet sheet.png"""
)
def command() -> None:
    """Look at a data set as training would see it."""


@command.command(
    epilog="""\b
Examples:
  dlhpc data describe config/flax_config.yaml
  dlhpc data describe --data pictures/ --contact-sheet sheet.png
  dlhpc data describe --set data.source=digits --set data.augment.rotation=15 --contact-sheet sheet.png
  dlhpc data describe --data pictures/ --json | jq .sizes"""
)
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.option(
    "--data",
    "place",
    type=click.Path(path_type=Path),
    help="Folder with one sub-folder of images per class, or an .npz file; in place of the configuration's data.",
)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a setting; repeat for several.")
@click.option(
    "--contact-sheet",
    "sheet",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.png",
    help="Draw training examples: the original, then as augmented in epochs 0, 1, ...",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def describe(
    config: Path | None, place: Path | None, overrides: tuple[str, ...], sheet: Path | None, as_json: bool
) -> None:
    """Sizes, classes, shape and fingerprint of a configuration's data; damaged files by name.

    Every image file is decoded. The labels of the test part are not looked at: only its size is told.
    Without CONFIG and --data, the default configuration's (synthetic) data is described.
    """
    from dlhpc.data.contact_sheet import contact_sheet, write_png
    from dlhpc.data.sources import open_dataset, section_for
    from dlhpc.spec.load import load_run, merge

    run = load_run(config, overrides=overrides)
    if place is not None:
        run = merge(run, {"data": section_for(place)}, "--data")
    dataset = open_dataset(run.data, run.model)
    facts = description(run, dataset)
    if sheet is not None:
        write_png(contact_sheet(dataset, run.data.augment, run.seed), sheet)
        facts["contact_sheet"] = str(sheet)
    if as_json:
        click.echo(json.dumps(facts, indent=2))
    else:
        _show(facts)


def description(run: RunSpec, dataset: PartedDataset) -> dict[str, Any]:
    """What `--json` prints."""
    info = dataset.info
    train, validation = dataset.class_counts("train"), dataset.class_counts("validation")
    return {
        "source": run.data.source,
        "path": None if (path := getattr(run.data, "path", None)) is None else str(path),
        "input_shape": list(info.input_shape),
        "sizes": dict(info.sizes),
        "classes": [
            {"name": name, "train": int(train[label]), "validation": int(validation[label])}
            for label, name in enumerate(info.classes)
        ],
        "split": run.data.split.canonical(),
        "augment": run.data.augment.canonical(),
        "mean": list(run.data.mean),
        "std": list(run.data.std),
        "fingerprint": info.fingerprint,
        "skipped": list(dataset.skipped),
        "contact_sheet": None,
    }


def _show(facts: dict[str, Any]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    height, width, channels = facts["input_shape"]
    sizes = facts["sizes"]
    augment = ", ".join(f"{key} {value}" for key, value in facts["augment"].items() if value) or "none"
    click.echo(f"source       {facts['source']}" + (f" ({facts['path']})" if facts["path"] else ""))
    click.echo(f"images       {height} x {width} x {channels} uint8 (height x width x channels)")
    click.echo(f"examples     {sum(sizes.values())}: " + ", ".join(f"{size} {part}" for part, size in sizes.items()))
    split = dict(facts["split"])
    if split["method"] == "halves":
        del split["test"]  # it is one half, whatever the share says
    click.echo(f"split        {', '.join(f'{key} {value}' for key, value in split.items())}")
    click.echo(f"augment      {augment}")
    click.echo(f"fingerprint  {facts['fingerprint']}")
    click.echo(f"classes      {len(facts['classes'])} (the labels of the test part are not looked at)")
    table = Table(box=box.SIMPLE)
    table.add_column("class")
    table.add_column("train", justify="right")
    table.add_column("validation", justify="right")
    for row in facts["classes"][:SHOWN_CLASSES]:
        table.add_row(Text(row["name"]), str(row["train"]), str(row["validation"]))
    if len(facts["classes"]) > SHOWN_CLASSES:
        table.add_row(f"... {len(facts['classes']) - SHOWN_CLASSES} more (--json)", "", "")
    Console().print(table)
    if facts["skipped"]:
        click.echo(f"{len(facts['skipped'])} damaged file(s) left out:")
    for reason in facts["skipped"]:
        click.echo(f"  {reason}")
    if facts["contact_sheet"]:
        click.echo(f"contact sheet: {facts['contact_sheet']}")
