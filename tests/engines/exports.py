"""Exporting the models of the twin tests, and running what came of it."""

from __future__ import annotations

from typing import Any

import numpy as np

from dlhpc.backends import load_backend
from dlhpc.ports import Exported, ExportFormat
from dlhpc.spec.model import ModelSpec
from dlhpc.weights.init import initial_weights
from dlhpc.weights.table import param_table
from tests.twins.networks import PREPROCESSING, difference, random_batch

TOLERANCE = 1e-5


def weights_of(spec: ModelSpec) -> Any:
    """First weights, moved so that no row is zero or uniform."""
    draw = np.random.default_rng(2)
    initial = initial_weights(param_table(spec), 3)
    return {name: array + draw.normal(0, 0.1, array.shape).astype(np.float32) for name, array in initial.items()}


def exported(backend: str, form: ExportFormat, spec: ModelSpec) -> Exported:
    return load_backend(backend).exporter().export(form, spec, weights_of(spec), PREPROCESSING)


def check(backend: str, form: ExportFormat, spec: ModelSpec) -> None:
    """The program answers as the predictor does, for one image and for many, and knows nothing of this machine."""
    made = exported(backend, form, spec)
    engine = load_backend(backend)
    program = engine.exporter().program(form, made.content, spec)
    inputs = random_batch(spec, rows=9).inputs
    answers = np.concatenate([program(inputs[:1]), program(inputs[1:])])
    expected = engine.predictor(spec, weights_of(spec), PREPROCESSING)(inputs)
    assert answers.dtype == np.float32
    assert difference(answers, expected) < TOLERANCE
    assert b".py" not in made.content
    assert made.facts["input"] == "images: uint8 (batch, H, W, C)"
