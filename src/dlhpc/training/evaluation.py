"""How good a classifier is, from its probabilities and the true labels alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dlhpc.errors import DataError
from dlhpc.spec.base import Spec

CALIBRATION_BINS = 15
"""As in Guo et al. 2017."""
_Z95 = 1.959963984540054
_SMALLEST = float(np.finfo(np.float32).tiny)


class ClassScore(Spec):
    """One class against all others."""

    name: str
    support: int
    """Examples of the class."""
    predicted: int
    """Examples that were given to it."""
    precision: float | None
    """Share of the predicted that are right; null when none was predicted."""
    recall: float | None
    """Share of the support that was found; null without support."""
    f1: float | None
    """Harmonic mean of the two; null when the class neither occurs nor is predicted."""


class Confusion(Spec):
    """Examples of one class that were taken for another."""

    actual: str
    predicted: str
    count: int
    share: float
    """Of the actual class's examples."""


class Bin(Spec):
    """Predictions of similar confidence, (low, high]."""

    low: float
    high: float
    count: int
    confidence: float | None
    """Mean confidence; null for an empty bin."""
    accuracy: float | None
    """Share that was right; null for an empty bin."""


class Calibration(Spec):
    """Whether the probabilities mean what they say."""

    ece: float
    """Expected calibration error: |accuracy - confidence| of each bin, weighted by its size (Guo et al. 2017,
    arXiv:1706.04599)."""
    brier: float
    """Mean squared distance between the probabilities and the truth, 0 to 2 (Brier 1950)."""
    nll: float
    """Mean negative log-likelihood, in nats."""
    confidence: float
    """Mean probability of the predicted class."""
    bins: tuple[Bin, ...]


class EvaluationReport(Spec):
    """Everything `dlhpc evaluate` says about predictions."""

    count: int
    """Examples."""
    correct: int
    accuracy: float
    interval: tuple[float, float]
    """95% confidence interval of the accuracy (Wilson 1927)."""
    macro_f1: float
    """Mean F1 of the classes that occur or are predicted."""
    classes: tuple[ClassScore, ...]
    confusion: tuple[tuple[int, ...], ...]
    """[actual][predicted] counts."""
    top_confusions: tuple[Confusion, ...]
    """The most frequent ten, most frequent first."""
    calibration: Calibration


def report(
    probabilities: npt.NDArray[np.floating[Any]], labels: npt.NDArray[np.integer[Any]], classes: Sequence[str]
) -> EvaluationReport:
    """Judge probabilities (N, classes) against labels (N,).

    Raises DataError when there is nothing to judge, or when shapes, labels or probabilities are impossible.
    """
    _check(probabilities, labels, classes)
    exact = probabilities.astype(np.float64)
    predicted = exact.argmax(1)
    confusion = np.bincount(labels.astype(np.int64) * len(classes) + predicted, minlength=len(classes) ** 2)
    confusion = confusion.reshape(len(classes), len(classes))
    count, correct = len(labels), int(np.trace(confusion))
    scores = tuple(_class_score(confusion, index, name) for index, name in enumerate(classes))
    return EvaluationReport(
        count=count,
        correct=correct,
        accuracy=correct / count,
        interval=wilson_interval(correct, count),
        macro_f1=float(np.mean([score.f1 for score in scores if score.f1 is not None])),
        classes=scores,
        confusion=tuple(tuple(int(cell) for cell in row) for row in confusion),
        top_confusions=_top_confusions(confusion, classes),
        calibration=_calibration(exact, labels, predicted),
    )


def wilson_interval(correct: int, count: int) -> tuple[float, float]:
    """95% interval of a proportion; holds its level near 0 and 1 and for few examples (Wilson 1927)."""
    share, z2 = correct / count, _Z95**2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = _Z95 / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    # The ends reach the proportion itself at 0 and 1, but for rounding.
    return min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half))


def _check(probabilities: npt.NDArray[Any], labels: npt.NDArray[Any], classes: Sequence[str]) -> None:
    if not len(labels):
        raise DataError("there is no example to evaluate")
    if probabilities.shape != (len(labels), len(classes)):
        raise DataError(
            f"the probabilities have shape {probabilities.shape}, expected ({len(labels)}, {len(classes)}): "
            "one row per label, one column per class"
        )
    if labels.min() < 0 or labels.max() >= len(classes):
        raise DataError(f"labels run from {labels.min()} to {labels.max()}, expected 0 to {len(classes) - 1}")
    if not np.isfinite(probabilities).all():
        row = int(np.flatnonzero(~np.isfinite(probabilities).all(1))[0])
        raise DataError(f"the model's answer to example {row} is no number: {probabilities[row]}")


def _class_score(confusion: npt.NDArray[np.int64], index: int, name: str) -> ClassScore:
    hit = int(confusion[index, index])
    support, predicted = int(confusion[index].sum()), int(confusion[:, index].sum())
    return ClassScore(
        name=name,
        support=support,
        predicted=predicted,
        precision=hit / predicted if predicted else None,
        recall=hit / support if support else None,
        f1=2 * hit / (support + predicted) if support + predicted else None,
    )


def _top_confusions(confusion: npt.NDArray[np.int64], classes: Sequence[str], most: int = 10) -> tuple[Confusion, ...]:
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    pairs = (divmod(int(flat), len(classes)) for flat in order)
    return tuple(
        Confusion(
            actual=classes[actual],
            predicted=classes[predicted],
            count=int(wrong[actual, predicted]),
            share=float(wrong[actual, predicted] / confusion[actual].sum()),
        )
        for actual, predicted in pairs
        if wrong[actual, predicted]
    )


def _calibration(
    probabilities: npt.NDArray[np.float64], labels: npt.NDArray[np.integer[Any]], predicted: npt.NDArray[np.intp]
) -> Calibration:
    rows = np.arange(len(labels))
    confidence, right = probabilities[rows, predicted], predicted == labels
    truth = np.zeros_like(probabilities)
    truth[rows, labels] = 1.0
    edges = np.linspace(0.0, 1.0, CALIBRATION_BINS + 1)
    place = np.searchsorted(edges[1:-1], confidence)
    bins = tuple(
        _bin(float(edges[index]), float(edges[index + 1]), confidence[place == index], right[place == index])
        for index in range(CALIBRATION_BINS)
    )
    gap = np.bincount(place, right - confidence, minlength=CALIBRATION_BINS)
    return Calibration(
        ece=float(np.abs(gap).sum() / len(labels)),
        brier=float(((probabilities - truth) ** 2).sum(1).mean()),
        # A float32 probability of zero is less than the smallest normal one, no more can be said of it.
        nll=float(-np.log(np.maximum(probabilities[rows, labels], _SMALLEST)).mean()),
        confidence=float(confidence.mean()),
        bins=bins,
    )


def _bin(low: float, high: float, confidence: npt.NDArray[np.float64], right: npt.NDArray[np.bool_]) -> Bin:
    if not len(confidence):
        return Bin(low=low, high=high, count=0, confidence=None, accuracy=None)
    return Bin(
        low=low, high=high, count=len(confidence), confidence=float(confidence.mean()), accuracy=float(right.mean())
    )
