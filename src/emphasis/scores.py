"""Scores of a classifier on held-out rows, each with its influences.

The influence of a row is the derivative of the score with respect to the weight of the row, which
`emphasis.comparison` needs for confidence intervals. Pure functions of numpy arrays.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BINS = 15  # of the reliability diagram and of the expected calibration error


@dataclass(frozen=True, eq=False)
class Held:
    """Held-out predictions of one method for N rows and C classes.

    Attributes:
        given: Class of each row, shape (N,).
        p: Probabilities, shape (N, C).
        weights: Weight of each row with sum 1, shape (N,).
        class_weights: Sum of the weights of each class, shape (C,).
        predicted: Most probable class of each row, shape (N,).
        correct: 1.0 where that is the given class, else 0.0, shape (N,).
    """

    given: Ints
    p: Floats
    weights: Floats
    class_weights: Floats
    predicted: Ints
    correct: Floats

    @classmethod
    def of(cls, given: Ints, p: Floats, weights: Floats) -> Held:
        """Return the predictions, with everything that several scores need; `weights` may have any sum > 0.

        Examples:
            >>> import numpy as np
            >>> from emphasis.scores import Held, accuracy, balanced_accuracy, recall
            >>> given = np.array([0, 0, 0, 1])
            >>> probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.3, 0.7]])
            >>> held = Held.of(given, probabilities, weights=np.ones(4))
            >>> accuracy(held)[0], round(balanced_accuracy(held)[0], 4)
            (0.75, 0.8333)
            >>> recall(held).round(4)
            array([0.6667, 1.    ])
        """
        shares = weights / weights.sum()
        predicted = p.argmax(1)
        totals = sums_by_group(given, shares, p.shape[1])
        return cls(given, p, shares, totals, predicted, (predicted == given).astype(np.float64))

    @property
    def present(self) -> NDArray[np.bool_]:
        """Classes that have weight, shape (C,); scores that average over classes leave out the others."""
        present: NDArray[np.bool_] = self.class_weights > 0.0
        return present


Score = Callable[[Held], tuple[float, Floats]]  # returns the score and the influence of each row, shape (N,)


@dataclass(frozen=True)
class Metric:
    """A score of held-out predictions.

    Attributes:
        title: Its name in tables.
        sign: 1 if higher is better, -1 if lower is.
        is_share: Whether differences are told in points, hundredths.
        score: The function.
    """

    title: str
    sign: int
    is_share: bool
    score: Score

    @property
    def name(self) -> str:
        """Its name within a sentence."""
        return self.title if self.title.isupper() else self.title[0].lower() + self.title[1:]


def accuracy(held: Held) -> tuple[float, Floats]:
    """Return the share of rows that are predicted as given."""
    value = float(held.weights @ held.correct)
    return value, held.correct - value


def balanced_accuracy(held: Held) -> tuple[float, Floats]:
    """Return the mean recall of the classes."""
    recalls = recall(held)
    number = np.count_nonzero(held.present)
    influence = (held.correct - recalls[held.given]) / nonzero(held.class_weights)[held.given] / number
    return float(recalls[held.present].mean()), influence


def macro_f1(held: Held) -> tuple[float, Floats]:
    """Return the mean F1 of the classes."""
    classes = len(held.class_weights)
    both = held.class_weights + np.bincount(held.predicted, held.weights, classes)
    f1 = 2.0 * np.bincount(held.given, held.weights * held.correct, classes) / nonzero(both)
    counted = held.present / np.count_nonzero(held.present) / nonzero(both)
    of_given, of_predicted = (counted * f1)[held.given], (counted * f1)[held.predicted]
    return float(f1[held.present].mean()), 2.0 * held.correct * counted[held.given] - of_given - of_predicted


def auc(held: Held) -> tuple[float, Floats]:
    """Return the mean area under the ROC curve of each class against the others; NaN with one class only."""
    influence = np.zeros(len(held.given))
    areas = []
    for label in np.flatnonzero(held.present & (held.class_weights < 1.0)):
        area, of_rows = _area(held.p[:, label], held.given == label, held.weights)
        areas.append(area)
        influence += of_rows
    return (float(np.mean(areas)), influence / len(areas)) if areas else (math.nan, influence)


def _area(score: Floats, positive: NDArray[np.bool_], weights: Floats) -> tuple[float, Floats]:
    """Return the area under a ROC curve and DeLong's components as influences."""
    order = np.argsort(score)
    ordered, is_positive, shares = score[order], positive[order], weights[order]
    up, down = np.where(is_positive, shares, 0.0), np.where(is_positive, 0.0, shares)
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])  # of runs of equal scores
    run = np.repeat(np.arange(len(starts)), np.diff(np.r_[starts, len(order)]))
    below, above = (np.add.reduceat(part, starts) for part in (down, up))
    total_up, total_down = above.sum(), below.sum()
    lower = np.cumsum(below) - 0.5 * below  # a tie counts half
    higher = total_up - np.cumsum(above) + 0.5 * above
    of_runs_up, of_runs_down = lower / total_down, higher / total_up
    area = float(above @ of_runs_up / total_up)
    influence = np.empty(len(order))
    influence[order] = np.where(
        is_positive, (of_runs_up[run] - area) / total_up, (of_runs_down[run] - area) / total_down
    )
    return area, influence


def log_loss(held: Held) -> tuple[float, Floats]:
    """Return the mean of minus the logarithm of the given class's probability."""
    rows = np.arange(len(held.given))
    given = held.p[rows, held.given] / held.p.sum(1)
    losses = -np.log(np.maximum(given, np.finfo(np.float64).eps))
    value = float(held.weights @ losses)
    return value, losses - value


def calibration_error(held: Held) -> tuple[float, Floats]:
    """Return the expected calibration error (ECE): |accuracy - confidence| in bins of confidence, averaged."""
    excess = held.correct - held.p.max(1)
    bins = _bins(held)
    sums = np.bincount(bins, held.weights * excess, BINS)
    value = float(np.abs(sums).sum())
    return value, np.sign(sums)[bins] * excess - value


def _bins(held: Held) -> Ints:
    bins: Ints = np.minimum((BINS * held.p.max(1)).astype(np.int64), BINS - 1)
    return bins


METRICS = {
    "accuracy": Metric("Accuracy", 1, True, accuracy),
    "balanced_accuracy": Metric("Balanced accuracy", 1, True, balanced_accuracy),
    "macro_f1": Metric("Macro F1", 1, True, macro_f1),
    "auc": Metric("AUC", 1, True, auc),
    "log_loss": Metric("Log loss", -1, False, log_loss),
    "ece": Metric("ECE", -1, True, calibration_error),
}


def recall(held: Held) -> Floats:
    """Return the recall of each class, shape (C,); NaN for a class without weight."""
    found = np.bincount(held.given, held.weights * held.correct, len(held.class_weights))
    return np.where(held.present, found / nonzero(held.class_weights), math.nan)


def reliability(held: Held) -> list[dict[str, float]]:
    """Return the reliability diagram: for each bin that has rows, their share, mean confidence and accuracy."""
    bins = _bins(held)
    share, confidence, right = (
        np.bincount(bins, held.weights * values, BINS) for values in (np.ones(len(bins)), held.p.max(1), held.correct)
    )
    return [
        {
            "share": float(share[k]),
            "confidence": float(confidence[k] / share[k]),
            "accuracy": float(right[k] / share[k]),
        }
        for k in np.flatnonzero(share > 0.0)
    ]


def sums_by_group(groups: Ints, values: Floats, number: int) -> Floats:
    """Return the sum of the values of each group, shape (number,)."""
    sums: Floats = np.bincount(groups, values, number).astype(np.float64)
    return sums


def nonzero(values: Floats) -> Floats:
    """Return the values with 1 in place of 0, to divide by."""
    return np.where(values > 0.0, values, 1.0)
