"""The Flax predictor: any number of rows, bytes or floats, from many threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from scipy import special

from dlhpc.backends import load_backend
from dlhpc.engines import flax_predictor
from dlhpc.engines.flax_network import forward_function
from dlhpc.errors import DataError, IntegrityError
from dlhpc.ports import Predictor, Preprocessing
from dlhpc.spec.model import CNNSpec, MLPSpec
from dlhpc.weights.init import initial_weights
from dlhpc.weights.table import param_table

SPEC = MLPSpec(num_classes=3, input_shape=(4, 5, 1), hidden_sizes=(), dropout_rate=0.0)
WEIGHTS: Any = initial_weights(param_table(SPEC), 0)
PREPROCESSING = Preprocessing((0.5,), (0.25,))


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return load_backend("flax").predictor(SPEC, WEIGHTS, PREPROCESSING)


def pixels(rows: int) -> Any:
    return np.random.default_rng(rows).integers(0, 256, (rows, 4, 5, 1), dtype=np.uint8)


def expected(inputs: Any) -> Any:
    x = (inputs.reshape(len(inputs), 20) / 255 - 0.5) / 0.25
    return special.softmax(x @ WEIGHTS["head/kernel"] + WEIGHTS["head/bias"], axis=1)


@pytest.mark.parametrize("rows", [0, 1, 3, 4, 257, 520])
def test_any_number_of_rows(predictor: Predictor, rows: int) -> None:
    probabilities = predictor(pixels(rows))
    assert probabilities.dtype == np.float32
    assert probabilities.shape == (rows, 3)
    np.testing.assert_allclose(probabilities, expected(pixels(rows)), atol=1e-5)


def test_floats_give_what_bytes_give(predictor: Predictor) -> None:
    inputs = pixels(3)
    np.testing.assert_allclose(predictor(inputs / 255.0), predictor(inputs), atol=1e-6)


def test_other_inputs_are_refused(predictor: Predictor) -> None:
    with pytest.raises(DataError, match="expected"):
        predictor(np.zeros((1, 5, 4, 1), np.uint8))


def test_many_threads(predictor: Predictor) -> None:
    batches = [pixels(rows) for rows in range(1, 17)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(predictor, batches))
    for batch, answer in zip(batches, answers, strict=True):
        np.testing.assert_allclose(answer, expected(batch), atol=1e-5)


def test_the_weights_are_copied() -> None:
    weights = {name: array.copy() for name, array in WEIGHTS.items()}
    predictor = load_backend("flax").predictor(SPEC, weights, PREPROCESSING)
    before = predictor(pixels(2))
    for array in weights.values():
        array[...] = 0
    np.testing.assert_array_equal(predictor(pixels(2)), before)


def test_float64_weights_answer_in_float32() -> None:
    weights = {name: array.astype(np.float64) for name, array in WEIGHTS.items()}
    answer = load_backend("flax").predictor(SPEC, weights, PREPROCESSING)(pixels(2))
    np.testing.assert_allclose(answer, expected(pixels(2)), atol=1e-5)
    assert answer.dtype == np.float32


def test_another_version_of_a_model_compiles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    traced = []
    monkeypatch.setattr(
        flax_predictor, "forward_function", lambda *facts: traced.append(facts) or forward_function(*facts)
    )
    spec = MLPSpec(num_classes=3, input_shape=(4, 5, 1), hidden_sizes=(), dropout_rate=0.125)
    other = {name: 2 * array for name, array in WEIGHTS.items()}
    backend, images = load_backend("flax"), pixels(2)
    answers = [backend.predictor(spec, weights, PREPROCESSING)(images) for weights in (WEIGHTS, other)]
    assert len(traced) == 1
    assert np.abs(answers[0] - answers[1]).max() > 0.01
    brighter = backend.predictor(spec, WEIGHTS, Preprocessing((0.0,), (0.25,)))(images)
    assert len(traced) == 2
    assert np.abs(brighter - answers[0]).max() > 0.01


def test_weights_of_another_model_are_refused() -> None:
    other = CNNSpec(num_classes=3, input_shape=(4, 5, 1))
    with pytest.raises(IntegrityError, match="'conv_0/kernel' is missing"):
        load_backend("flax").predictor(other, WEIGHTS, PREPROCESSING)


def test_an_unresolved_model_is_refused() -> None:
    with pytest.raises(ValueError, match="must be resolved"):
        load_backend("flax").predictor(MLPSpec(), WEIGHTS, PREPROCESSING)
