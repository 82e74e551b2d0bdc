"""Making derived files: export, run, compare with the version's own answers, and only then keep.

A file whose answers are further off than its tolerance is refused, and nothing is recorded.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dlhpc.errors import DlhpcError, IntegrityError, UsageError
from dlhpc.ports import ExportFormat, Predictor
from dlhpc.registry.artifact import Artifact
from dlhpc.registry.derived import derived, read
from dlhpc.registry.derived_record import AccuracyChange, DerivedFormat, DerivedRecord, Parity
from dlhpc.registry.environment import environment, toolchain
from dlhpc.registry.manifest import FileEntry, sha256
from dlhpc.registry.places import Place
from dlhpc.registry.record_kinds import Stamper
from dlhpc.registry.remarks import ledger
from dlhpc.registry.store import Registry
from dlhpc.registry.validation import accuracies
from dlhpc.weights.file import from_bytes, to_bytes
from dlhpc.weights.quantisation import dequantise, quantise
from dlhpc.weights.table import param_table

LOG = logging.getLogger(__name__)

TOLERANCES: Final[Mapping[DerivedFormat, float]] = {
    "onnx": 1e-5,
    "stablehlo": 1e-5,
    "torch-export": 1e-5,
    "int8": 0.05,
}
"""Largest difference of two probabilities, over the largest probability. int8 rounds the weights themselves."""
_WRITERS: Final[Mapping[DerivedFormat, str]] = {"stablehlo": "flax", "torch-export": "torch"}
"""Formats that one framework has."""
_INT8_FACTS: Final = {
    "scheme": "kernels int8, symmetric, a float32 scale per output channel; biases and norms float32",
    "runs": "as float32, in either framework",
}


@dataclass(frozen=True)
class _Made:
    """A file, what there is to know about it, and what runs it."""

    content: bytes
    facts: Mapping[str, str]
    predict: Predictor


def derive(
    registry: Registry,
    ref: str,
    form: DerivedFormat,
    *,
    backend: str | None = None,
    tolerance: float | None = None,
) -> DerivedRecord:
    """The record of a version's file in another format, which is made where it is not there yet.

    It is there when the same versions of the same packages made it under the same tolerance. Without `backend`: the
    framework that the format belongs to, or else that trained the version. Raises UsageError when the framework does
    not write the format, MissingExtraError, and DlhpcError when the file's answers are not the version's.
    """
    tolerance = TOLERANCES[form] if tolerance is None else tolerance
    if not 0 < tolerance < 1:
        raise UsageError(f"a tolerance of {tolerance:g} came, expected a number between 0 and 1")
    digest = f"sha256:{registry.resolve(ref)}"
    artifact = registry.get(digest)
    backend = backend or _WRITERS.get(form, artifact.manifest.run.backend)
    tools = _tools(artifact, form, backend)
    for record in reversed(derived(registry, digest)):
        same = (record.derivation, record.backend, record.toolchain, record.parity.tolerance)
        if same == (form, backend, tools, tolerance) and not record.accuracy_unknown and _is_whole(registry, record):
            return record
    made = _quantised(artifact, backend) if form == "int8" else _exported(artifact, form, backend)
    parity = _parity(artifact, made.predict, tolerance, f"{ref} as {form} by {backend}")
    accuracy, unknown = _accuracy(artifact, made.predict, backend) if form == "int8" else (None, "")
    says = {
        "derivation": form,
        "backend": backend,
        "file": FileEntry(sha256=sha256(made.content), size=len(made.content)),
        "facts": dict(made.facts),
        "toolchain": tools,
        "parity": parity,
        "accuracy": accuracy,
        "accuracy_unknown": unknown,
    }
    return registry.attach(digest, made.content, lambda root, version, stamp: _recorded(root, version, says, stamp))


def _tools(artifact: Artifact, form: DerivedFormat, backend: str) -> dict[str, str]:
    if form == "int8":
        return environment(backend)
    return toolchain(*artifact.load_backend(backend).exporter().packages(form))


def _is_whole(registry: Registry, record: DerivedRecord) -> bool:
    try:
        read(registry, record)
    except IntegrityError as error:
        LOG.warning("%s; making it again", error)
        return False
    return True


def _exported(artifact: Artifact, form: ExportFormat, backend: str) -> _Made:
    manifest, exporter = artifact.manifest, artifact.load_backend(backend).exporter()
    model = manifest.run.model
    exported = exporter.export(form, model, artifact.weights, manifest.preprocessing)
    return _Made(exported.content, exported.facts, exporter.program(form, exported.content, model))


def _quantised(artifact: Artifact, backend: str) -> _Made:
    manifest = artifact.manifest
    table = param_table(manifest.run.model)
    content = to_bytes(quantise(table, artifact.weights))
    weights = dequantise(table, from_bytes(content, "int8"), "int8")
    predict = artifact.load_backend(backend).predictor(manifest.run.model, weights, manifest.preprocessing)
    return _Made(content, _INT8_FACTS, predict)


def _parity(artifact: Artifact, predict: Predictor, tolerance: float, what: str) -> Parity:
    """Compare on the golden inputs, one and then the others: the batch axis is free."""
    golden = artifact.golden()
    answers = np.concatenate([predict(part) for part in (golden.inputs[:1], golden.inputs[1:]) if len(part)])
    expected: npt.NDArray[Any] = golden.outputs.astype(np.float64)
    absolute = float(np.abs(answers - expected).max()) if answers.shape == expected.shape else float("inf")
    relative = absolute / float(expected.max())
    if not relative <= tolerance:
        raise DlhpcError(
            f"{what}: answers differ by {relative:.3g} of the largest one on {len(expected)} golden inputs, more than "
            f"the tolerance of {tolerance:g}: nothing was recorded"
        )
    return Parity(examples=len(expected), max_absolute=absolute, max_relative=relative, tolerance=tolerance)


def _accuracy(artifact: Artifact, predict: Predictor, backend: str) -> tuple[AccuracyChange | None, str]:
    """The change on the validation part, or why it is not known."""
    try:
        examples, (before, after) = accuracies(artifact.manifest, [artifact.predictor(backend), predict])
    except (DlhpcError, OSError) as error:
        LOG.warning("accuracy was not measured, only the difference on the golden inputs: %s", error)
        return None, str(error)
    return AccuracyChange(examples=examples, before=before, after=after), ""


def _recorded(root: Place, digest: str, says: dict[str, Any], stamp: Stamper) -> DerivedRecord:
    """Add the record, unless one says the same."""
    records = ledger(root, digest, DerivedRecord)
    for there in records.all():
        if all(getattr(there, key) == value for key, value in says.items()):
            return there

    def next_record(number: int, last: DerivedRecord | None, previous: str | None) -> DerivedRecord:
        at, by, sequence = stamp((last and last.sequence) or 0)
        return DerivedRecord(number=number, at=at, by=by, sequence=sequence, version=digest, previous=previous, **says)

    record = records.extend(next_record)
    assert record is not None, "a record is always added"
    return record
