"""What becomes a version: the result of a run, a run's folder, an exported folder, somebody else's weights."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dlhpc.backends import load_backend
from dlhpc.data.dataset import Dataset
from dlhpc.data.sources import open_dataset
from dlhpc.errors import ConfigError, DlhpcError, NotFoundError, UsageError
from dlhpc.registry.artifact import Artifact, new_artifact
from dlhpc.registry.export import write_folder
from dlhpc.registry.foreign_weights import Naming, canonical_weights, read_foreign
from dlhpc.registry.manifest import WEIGHTS_FILE
from dlhpc.registry.model_folder import import_folder
from dlhpc.registry.progress import Progress, quiet
from dlhpc.registry.reader import Version
from dlhpc.registry.statements import MANIFEST_FILE
from dlhpc.registry.store import Registry
from dlhpc.spec.load import load_mapping, merge
from dlhpc.spec.run import RunSpec
from dlhpc.training.run_folder import read_result
from dlhpc.weights.file import to_bytes

LOG = logging.getLogger(__name__)

MODEL_FOLDER = "model"
"""Where the folder of a run that publishes nothing keeps its model."""


def resolve(run: RunSpec, dataset: Dataset) -> RunSpec:
    """The run with the model's input shape and classes filled in; ConfigError when it contradicts the data."""
    info = dataset.info
    facts = {"model.input_shape": info.input_shape, "model.num_classes": info.num_classes}
    given = {"model.input_shape": run.model.input_shape, "model.num_classes": run.model.num_classes}
    wrong = [
        f"{key}: {given[key]} came, but the data has {fact}: leave {key} out, or change the data"
        for key, fact in facts.items()
        if given[key] not in {None, fact}
    ]
    if wrong:
        raise ConfigError(wrong)
    return merge(run, facts, "the data")


def read_card(run: RunSpec) -> str | None:
    """The text of the run's model card; ConfigError when it cannot be read, before anything is trained."""
    path = run.registry.card
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = "no text in UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise ConfigError(f"registry.card: {path}: {why}; expected a file of Markdown") from error


def keep(run: RunSpec, artifact: Artifact, folder: Path) -> dict[str, Any]:
    """Publish a finished run's model as its registry section says, or else keep it in the run's folder.

    The reference and the registry's path, for result.json.
    """
    if not run.registry.publish:
        contents = {WEIGHTS_FILE: to_bytes(artifact.weights), **artifact.files, MANIFEST_FILE: artifact.manifest_bytes}
        if not (folder / MODEL_FOLDER).exists():
            write_folder(folder / MODEL_FOLDER, contents, {})
        return {}
    name = run.registry.name or run.resolved_name
    registry = Registry(run.registry.path, load_backend)
    try:
        if run.registry.sign_with is None:
            digest = registry.publish(artifact, name, alias=run.registry.alias, run=folder)
        else:  # an alias stands for what is signed already: a server that wants signatures may follow it
            digest = registry.publish(artifact, name, run=folder)
            registry.sign(f"sha256:{digest}", run.registry.sign_with)
            if run.registry.alias is not None:
                registry.set_alias(name, run.registry.alias, f"sha256:{digest}")
    except (DlhpcError, OSError):
        LOG.error("the run is complete, but its model was not published; to try again: dlhpc train --resume %s", folder)
        raise
    reference = next(version.ref for version in reversed(registry.labels(digest)) if version.name == name)
    return {"reference": reference, "registry": str(run.registry.path)}


def publish_folder(
    registry: Registry, source: Path, name: str, *, alias: str | None = None, note: str = "", progress: Progress = quiet
) -> Version:
    """Publish a finished run's model, or an exported folder.

    A run that published nothing keeps its model in its folder; what a run has published is taken from there, and is
    the same version under another name. Raises UsageError for a run that has not finished, NotFoundError for a folder
    that is neither.
    """
    options: dict[str, Any] = {"alias": alias, "note": note, "progress": progress}
    if not (source / "run.json").exists():
        return import_folder(registry, source, name, **options)
    result = read_result(source)
    if result is None:
        raise UsageError(f"{source}: this run has not finished; go on with: dlhpc train --resume {source}")
    if (source / MODEL_FOLDER).exists():
        return import_folder(registry, source / MODEL_FOLDER, name, run=source, **options)
    if result["registry"] is None:
        raise NotFoundError(f"{source}: keeps no {MODEL_FOLDER}: it was trained by an earlier dlhpc, unpublished")
    manifest, files = Registry(result["registry"], load_backend).read(f"sha256:{result['digest']}", progress=progress)
    return registry.publish_bytes(manifest, files, name, run=str(source), **options)


def import_weights(
    registry: Registry,
    file: Path,
    run: RunSpec,
    name: str,
    *,
    naming: Naming = "canonical",
    names: Path | None = None,
    trained_on_data: bool = False,
    alias: str | None = None,
    note: str = "",
    progress: Progress = quiet,
) -> Version:
    """Publish a safetensors state_dict that fits the run's model (foreign_weights.py).

    Nobody knows what imported weights were trained on, so the version says nothing of its data, has no metrics, and
    its classes are called 0, 1, ...; the run has to say model.input_shape and model.num_classes. Where the run's data
    is what they were trained on (`trained_on_data`), it is opened, and gives shape, classes and fingerprint.
    """
    arrays = read_foreign(file)
    mapping = None if names is None else load_mapping(names).plain()
    classes: Sequence[str]
    fingerprint = None
    if trained_on_data:
        dataset = open_dataset(run.data, run.model)
        run, classes, fingerprint = resolve(run, dataset), dataset.info.classes, dataset.info.fingerprint
    else:
        given = {"model.input_shape": run.model.input_shape, "model.num_classes": run.model.num_classes}
        absent = [f"{key}: weights alone do not say it: set it" for key, value in given.items() if value is None]
        if absent:
            raise ConfigError(absent)
        classes = [str(number) for number in range(run.model.num_classes or 0)]
    artifact = new_artifact(
        run,
        canonical_weights(run.model, arrays, str(file), naming, mapping),
        classes=classes,
        metrics={},
        data_fingerprint=fingerprint,
        load_backend=load_backend,
        card=read_card(run),
    )
    digest = registry.publish(artifact, name, alias=alias, note=note, progress=progress)
    return next(version for version in registry.labels(digest) if version.name == name)
