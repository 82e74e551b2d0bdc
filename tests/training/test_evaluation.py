"""The measures against scikit-learn and scipy, which know nothing of ours."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn import metrics
from sklearn.calibration import calibration_curve

from dlhpc.errors import DataError
from dlhpc.training.evaluation import CALIBRATION_BINS, EvaluationReport, report, wilson_interval


def made(seed, count, num_classes, sharpness=2.0):
    """Random answers, some of them right, some classes perhaps without support or prediction."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, num_classes, count).astype(np.int32)
    logits = draw.normal(size=(count, num_classes)) * sharpness
    logits[np.arange(count), labels] += sharpness
    exponents = np.exp(logits - logits.max(1, keepdims=True))
    return (exponents / exponents.sum(1, keepdims=True)).astype(np.float32), labels


def names(num_classes):
    return [f"class {index}" for index in range(num_classes)]


CASES = [(0, 500, 10, 2.0), (1, 40, 7, 0.1), (2, 3, 5, 1.0), (3, 1, 2, 1.0), (4, 2000, 2, 6.0), (5, 300, 100, 3.0)]


@pytest.mark.parametrize(("seed", "count", "num_classes", "sharpness"), CASES)
def test_measures_are_those_of_scikit_learn(seed, count, num_classes, sharpness):
    probabilities, labels = made(seed, count, num_classes, sharpness)
    found = report(probabilities, labels, names(num_classes))
    predicted, every = probabilities.argmax(1), np.arange(num_classes)
    assert found.count == count
    assert found.accuracy == pytest.approx(metrics.accuracy_score(labels, predicted), abs=1e-15)
    assert found.correct == metrics.accuracy_score(labels, predicted, normalize=False)
    np.testing.assert_array_equal(found.confusion, metrics.confusion_matrix(labels, predicted, labels=every))
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        labels, predicted, labels=every, zero_division=np.nan
    )
    for index, score in enumerate(found.classes):
        assert score.name == f"class {index}"
        assert (score.support, score.predicted) == (support[index], (predicted == index).sum())
        for ours, theirs in ((score.precision, precision[index]), (score.recall, recall[index]), (score.f1, f1[index])):
            assert math.isnan(theirs) if ours is None else ours == pytest.approx(theirs, abs=1e-15)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert found.macro_f1 == pytest.approx(metrics.f1_score(labels, predicted, average="macro"), abs=1e-14)
        nll = metrics.log_loss(labels, probabilities.astype(np.float64), labels=every)
        brier = metrics.brier_score_loss(labels, normalised(probabilities), labels=every, scale_by_half=False)
    assert found.calibration.nll == pytest.approx(nll, rel=1e-6)
    assert found.calibration.brier == pytest.approx(brier, rel=1e-6)


def normalised(probabilities):
    exact = probabilities.astype(np.float64)
    exact /= exact.sum(1, keepdims=True)
    return exact[:, 1] if exact.shape[1] == 2 else exact


@pytest.mark.parametrize(("seed", "count", "num_classes", "sharpness"), CASES)
def test_calibration_is_that_of_scikit_learns_curve(seed, count, num_classes, sharpness):
    probabilities, labels = made(seed, count, num_classes, sharpness)
    calibration = report(probabilities, labels, names(num_classes)).calibration
    confidence, right = probabilities.max(1).astype(np.float64), probabilities.argmax(1) == labels
    accuracies, confidences = calibration_curve(right, confidence, n_bins=CALIBRATION_BINS)
    filled = [each for each in calibration.bins if each.count]
    np.testing.assert_allclose([each.accuracy for each in filled], accuracies, atol=1e-12)
    np.testing.assert_allclose([each.confidence for each in filled], confidences, atol=1e-12)
    sizes = np.array([each.count for each in filled])
    assert sizes.sum() == count
    assert calibration.ece == pytest.approx((sizes * abs(accuracies - confidences)).sum() / count, abs=1e-12)
    assert calibration.confidence == pytest.approx(confidence.mean(), abs=1e-12)
    for each in calibration.bins:
        inside = (confidence > each.low) & (confidence <= each.high)
        assert each.count == inside.sum()


@given(st.integers(0, 1000), st.integers(1, 1000))
def test_the_interval_is_scipys_wilson_interval(correct, count):
    correct = min(correct, count)
    theirs = binomtest(correct, count).proportion_ci(0.95, method="wilson")
    low, high = wilson_interval(correct, count)
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)
    assert 0.0 <= low <= correct / count <= high <= 1.0


def test_confusions_are_ordered_and_named():
    labels = np.array([0] * 10 + [1] * 4 + [2] * 2)
    predicted = [0] * 4 + [1] * 5 + [2] + [1] * 2 + [0] * 2 + [2] * 2
    found = report(np.eye(3, dtype=np.float32)[predicted], labels, ["cat", "dog", "eel"])
    assert [(each.actual, each.predicted, each.count, each.share) for each in found.top_confusions] == [
        ("cat", "dog", 5, 0.5),
        ("dog", "cat", 2, 0.5),
        ("cat", "eel", 1, 0.1),
    ]


def test_at_most_ten_confusions():
    probabilities, labels = made(5, 300, 100, 0.5)
    assert len(report(probabilities, labels, names(100)).top_confusions) == 10


def test_a_perfect_model():
    labels = np.arange(4)
    found = report(np.eye(4, dtype=np.float32), labels, names(4))
    assert (found.accuracy, found.macro_f1, found.top_confusions) == (1.0, 1.0, ())
    assert (found.calibration.ece, found.calibration.brier, found.calibration.nll) == (0.0, 0.0, 0.0)
    assert found.interval[1] == 1.0


def test_a_certain_mistake_is_finite():
    found = report(np.eye(2, dtype=np.float32), np.array([1, 0]), names(2))
    assert found.accuracy == 0.0
    assert (found.calibration.ece, found.calibration.brier) == (1.0, 2.0)
    assert found.calibration.nll == pytest.approx(-math.log(np.finfo(np.float32).tiny))


def test_labels_of_few_bits_do_not_overflow():
    labels = np.array([200, 201], np.uint8)
    probabilities = np.zeros((2, 300), np.float32)
    probabilities[:, 200] = 1.0
    found = report(probabilities, labels, names(300))
    assert found.confusion[201][200] == found.confusion[200][200] == 1


def test_it_is_a_value_that_json_holds():
    found = report(*made(2, 3, 5), names(5))
    assert EvaluationReport.model_validate(found.canonical()) == found


@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        (np.zeros((0, 2)), np.zeros(0, int), "no example to evaluate"),
        (np.zeros((2, 3)), np.array([0, 1]), r"shape \(2, 3\), expected \(2, 2\)"),
        (np.zeros((3, 2)), np.array([0, 1]), r"shape \(3, 2\), expected \(2, 2\)"),
        (np.zeros((2, 2)), np.array([0, 2]), "labels run from 0 to 2, expected 0 to 1"),
        (np.zeros((2, 2)), np.array([-1, 1]), "labels run from -1 to 1"),
        (np.array([[0.5, 0.5], [np.nan, 0.5]]), np.array([0, 1]), "answer to example 1 is no number"),
    ],
)
def test_the_impossible_is_refused(probabilities, labels, message):
    with pytest.raises(DataError, match=message):
        report(probabilities, labels, names(2))
