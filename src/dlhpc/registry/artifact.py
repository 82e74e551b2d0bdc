"""An artifact: a manifest and the files it names. What training gives, the registry keeps and serving loads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dlhpc.errors import IntegrityError, TrainingError
from dlhpc.ports import BackendLoader, Predictor, Preprocessing
from dlhpc.registry.environment import code_version, environment
from dlhpc.registry.golden import Golden, answered, read_golden
from dlhpc.registry.manifest import (
    CARD_FILE,
    GOLDEN_FILE,
    WEIGHTS_FILE,
    FileEntry,
    Manifest,
    TensorSchema,
    parse_manifest,
    sha256,
)
from dlhpc.spec.precision import ComputePrecision
from dlhpc.spec.run import RunSpec
from dlhpc.weights.file import from_bytes, to_bytes
from dlhpc.weights.init import Weights
from dlhpc.weights.table import param_table
from dlhpc.weights.verify import verify_weights


@dataclass(frozen=True)
class Artifact:
    """A trained model, independent of any framework."""

    manifest: Manifest
    weights: Weights
    """Canonical names -> arrays (weights/table.py). Treat as read-only: publishing re-hashes them."""
    manifest_bytes: bytes = field(repr=False)
    """The manifest exactly as it was first written: its sha256 is the version, also when a later dlhpc, whose specs
    have more fields, would write it differently."""
    load_backend: BackendLoader = field(repr=False, compare=False)
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    """The bytes of the version's files, but for the weights, by name."""

    @property
    def digest(self) -> str:
        """sha256 (hex) of the manifest: the version."""
        return sha256(self.manifest_bytes)

    @property
    def classes(self) -> tuple[str, ...]:
        """Name of each output, in order."""
        return self.manifest.classes

    def predictor(self, backend: str | None = None, precision: ComputePrecision = "float32") -> Predictor:
        """A predictor in the framework that trained it, or in `backend`.

        It maps (N, H, W, C) uint8, or float32 in 0..1, to (N, classes) float32 probabilities.
        Raises MissingExtraError when the framework is not installed.
        """
        engine = self.load_backend(backend or self.manifest.run.backend)
        return engine.predictor(self.manifest.run.model, self.weights, self.manifest.preprocessing, precision)

    @property
    def card(self) -> str | None:
        """The model card, Markdown; None where none was given."""
        return self.files[CARD_FILE].decode() if CARD_FILE in self.files else None

    @property
    def has_golden(self) -> bool:
        """Whether answers were stored with the version: one of format 1 has none."""
        return GOLDEN_FILE in self.manifest.files

    def golden(self) -> Golden:
        """Images and the answers that were stored with the version, to compare other ways of computing with.

        A version of format 1 has none: the same images are drawn, and answered now by the framework that trained it.
        """
        manifest = self.manifest
        if not self.has_golden:
            return answered(manifest.run, self.weights, manifest.preprocessing, self.load_backend)
        return read_golden(self.files[GOLDEN_FILE], manifest.inputs.shape[1:], len(self.classes), GOLDEN_FILE)


def new_artifact(
    run: RunSpec,
    weights: Weights,
    *,
    classes: Sequence[str],
    metrics: Mapping[str, float],
    data_fingerprint: str | None,
    load_backend: BackendLoader,
    parents: Sequence[str] = (),
    card: str | None = None,
) -> Artifact:
    """Make an artifact of a resolved run's weights, under the run's licence, with a model card if any.

    Raises IntegrityError when the weights do not fit the run's model, TrainingError when a metric is not finite.
    """
    unfit = [f"{name} = {value}" for name, value in metrics.items() if not math.isfinite(value)]
    if unfit:
        raise TrainingError(f"no artifact of a model whose metrics are no numbers: {', '.join(unfit)}")
    verify_weights(param_table(run.model), weights, "the trained weights")
    preprocessing = Preprocessing(mean=run.data.mean, std=run.data.std)
    files = {GOLDEN_FILE: answered(run, weights, preprocessing, load_backend).to_bytes()}
    files |= {} if card is None else {CARD_FILE: card.encode()}
    contents = {WEIGHTS_FILE: to_bytes(weights), **files}
    assert run.model.input_shape is not None
    manifest = Manifest(
        files={name: FileEntry(sha256=sha256(content), size=len(content)) for name, content in contents.items()},
        run=run,
        inputs=TensorSchema(
            shape=(None, *run.model.input_shape),
            dtypes=("uint8", "float32"),
            meaning="images, NHWC; uint8 in 0..255 or float32 in 0..1",
        ),
        outputs=TensorSchema(shape=(None, len(classes)), dtypes=("float32",), meaning="class probabilities"),
        classes=tuple(classes),
        preprocessing=preprocessing,
        metrics={name: float(value) for name, value in metrics.items()},
        data_fingerprint=data_fingerprint,
        code=code_version(),
        environment=environment(run.backend),
        parents=tuple(parents),
        licence=run.registry.licence,
    )
    return Artifact(manifest, weights, manifest.to_bytes(), load_backend, files)


def load_artifact(
    manifest_bytes: bytes, files: Mapping[str, bytes], load_backend: BackendLoader, where: str
) -> Artifact:
    """Make an artifact of bytes that were verified; `where` names the version in errors."""
    manifest = parse_manifest(manifest_bytes, where)
    weights = from_bytes(files[WEIGHTS_FILE], f"{where}: {WEIGHTS_FILE}")
    verify_weights(param_table(manifest.run.model), weights, f"{where}: {WEIGHTS_FILE}")
    others = {name: content for name, content in files.items() if name != WEIGHTS_FILE}
    if GOLDEN_FILE in others:
        read_golden(others[GOLDEN_FILE], manifest.inputs.shape[1:], len(manifest.classes), f"{where}: {GOLDEN_FILE}")
    if CARD_FILE in others:
        check_card(others[CARD_FILE], f"{where}: {CARD_FILE}")
    return Artifact(manifest, weights, manifest_bytes, load_backend, others)


def check_card(content: bytes, where: str) -> str:
    """The text of a model card. Raises IntegrityError when it is no UTF-8."""
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise IntegrityError(f"{where}: no text in UTF-8 (byte {error.start}): a model card is Markdown") from error
