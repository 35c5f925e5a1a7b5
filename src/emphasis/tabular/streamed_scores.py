"""Scores of held-out predictions that arrive in parts, with memory that does not grow with the number of rows.

The scores are those of `emphasis.scores`, from sums over rows, but for AUC, which is of margins rounded to 1/32. An
interval needs the influence of each row; for the scores that are means over rows, accuracy and log loss, sums over rows
give it as well. The other differences have no interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emphasis.comparison import CONFIDENCE
from emphasis.scores import BINS, METRICS

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_MARGIN_BINS, _LARGEST_MARGIN = 1024, 16.0
_MEANS = ("accuracy", "log_loss")


class StreamedScores:
    """Collects the scores of several methods on the same rows.

    Args:
        methods: Names of the methods; the differences are between the first two, if there are two.
        classes: Names of the classes.
        folds: Number of folds.
    """

    def __init__(self, methods: Sequence[str], classes: Sequence[str], folds: int) -> None:
        self._methods, self._classes, self._folds = list(methods), list(classes), folds
        self._rows = 0
        shape = (len(self._methods), folds)
        number = len(self._classes)
        self._given = np.zeros((folds, number))  # weight of each class
        self._right, self._predicted = np.zeros((*shape, number)), np.zeros((*shape, number))
        self._loss = np.zeros(shape)
        self._bins = np.zeros((*shape, 3, BINS))  # weight, confidence and correctness
        self._margins = np.zeros((*shape, number, 2, _MARGIN_BINS))  # weight of rows of other classes and of the class
        self._paired = np.zeros((len(_MEANS), 3))  # sums of w d, w^2 d and w^2 d^2 of the differences d
        self._squares = 0.0

    def add(self, given: Ints, probabilities: Sequence[NDArray[Any]], fold: Ints, weights: Floats | None) -> None:
        """Add rows.

        Args:
            given: Class of each row, (n,).
            probabilities: Probabilities of each method, (n, C).
            fold: Fold in which each row was held out, (n,).
            weights: Weight of each row, (n,); None for 1.
        """
        share = np.ones(len(given)) if weights is None else weights
        self._rows += len(given)
        number, folds = len(self._classes), self._folds
        self._given += _sums((fold, given), share, (folds, number))
        rows = np.arange(len(given))
        values = []
        for method, p in enumerate(np.asarray(part, np.float64) for part in probabilities):
            predicted, confidence = p.argmax(1), p.max(1)
            correct = (predicted == given).astype(np.float64)
            loss = -np.log(np.maximum(p[rows, given] / p.sum(1), np.finfo(np.float64).eps))
            values.append((correct, loss))
            self._right[method] += _sums((fold, given), share * correct, (folds, number))
            self._predicted[method] += _sums((fold, predicted), share, (folds, number))
            self._loss[method] += np.bincount(fold, share * loss, folds)
            bins = np.minimum((BINS * confidence).astype(np.int64), BINS - 1)
            for place, of_rows in enumerate((share, share * confidence, share * correct)):
                self._bins[method, :, place] += _sums((fold, bins), of_rows, (folds, BINS))
            for label in range(number):
                margin = _margin_bins(p[:, label])
                shape = (folds, 2, _MARGIN_BINS)
                self._margins[method, :, label] += _sums(
                    (fold, (given == label).astype(np.int64), margin), share, shape
                )
        self._squares += float(share @ share)
        if len(values) > 1:
            for place, (ours, theirs) in enumerate(zip(*values[:2], strict=True)):
                difference = ours - theirs
                square = np.square(share) * difference
                self._paired[place] += (share @ difference, square.sum(), square @ difference)

    def result(self) -> dict[str, Any]:
        """Return what `metrics.json` holds; see `emphasis.comparison.evaluate`. Most differences have no interval."""
        everything = np.ones(self._folds, dtype=bool)
        methods: dict[str, Any] = {}
        for number, name in enumerate(self._methods):
            whole = self._scores(number, everything)
            parts = [self._scores(number, np.arange(self._folds) == fold) for fold in range(self._folds)]
            methods[name] = {
                key: {
                    "value": whole[key],
                    "folds": [part[key] for part in parts],
                    "mean": float(np.mean([part[key] for part in parts])),
                    "std": float(np.std([part[key] for part in parts], ddof=1)),
                }
                for key in METRICS
            }
        total = self._given.sum(axis=0)
        present = np.where(total > 0.0, total, math.nan)
        result: dict[str, Any] = {
            "rows": self._rows,
            "methods": methods,
            "recall": {
                name: dict(zip(self._classes, (self._right[number].sum(axis=0) / present).tolist(), strict=True))
                for number, name in enumerate(self._methods)
            },
            "reliability": {name: self._reliability(number) for number, name in enumerate(self._methods)},
        }
        if len(self._methods) > 1:
            ours, theirs = (methods[name] for name in self._methods[:2])
            result["difference"] = {
                key: {"value": ours[key]["value"] - theirs[key]["value"], **self._interval(key)} for key in METRICS
            }
        return result

    def _scores(self, method: int, folds: NDArray[np.bool_]) -> dict[str, float]:
        given, right, predicted = (
            array[folds].sum(axis=0) for array in (self._given, self._right[method], self._predicted[method])
        )
        whole, some = given.sum(), given > 0.0
        _, confidence, correct = self._bins[method][folds].sum(axis=0)
        areas = [
            _area(*self._margins[method][folds, label].sum(axis=0)) for label in np.flatnonzero(some & (given < whole))
        ]
        return {
            "accuracy": float(right.sum() / whole),
            "balanced_accuracy": float((right[some] / given[some]).mean()),
            "macro_f1": float((2.0 * right[some] / (given + predicted)[some]).mean()),
            "auc": float(np.mean(areas)) if areas else math.nan,
            "log_loss": float(self._loss[method][folds].sum() / whole),
            "ece": float(np.abs(correct - confidence).sum() / whole),
        }

    def _reliability(self, method: int) -> list[dict[str, float]]:
        weight, confidence, correct = self._bins[method].sum(axis=0)
        return [
            {
                "share": float(weight[k] / weight.sum()),
                "confidence": float(confidence[k] / weight[k]),
                "accuracy": float(correct[k] / weight[k]),
            }
            for k in np.flatnonzero(weight > 0.0)
        ]

    def _interval(self, key: str) -> dict[str, float]:
        """Return the ends of the interval of a mean over rows; {} for other scores."""
        if key not in _MEANS:
            return {}
        whole = self._given.sum()
        first, second, third = self._paired[_MEANS.index(key)]
        mean = first / whole
        error = math.sqrt(max(0.0, third - 2.0 * mean * second + mean**2 * self._squares)) / whole
        half = NormalDist().inv_cdf(0.5 + 0.5 * CONFIDENCE) * error
        return {"low": float(mean - half), "high": float(mean + half)}


def _sums(places: tuple[Ints, ...], values: Floats, shape: tuple[int, ...]) -> Floats:
    """Return the sums of the values of each place in an array of a shape."""
    flat = np.ravel_multi_index(places, shape)
    return np.bincount(flat, values, math.prod(shape)).astype(np.float64).reshape(shape)


def _margin_bins(p: Floats) -> Ints:
    with np.errstate(divide="ignore"):
        margin = np.clip(np.log(p) - np.log1p(-p), -_LARGEST_MARGIN, _LARGEST_MARGIN)
    bins: Ints = ((margin + _LARGEST_MARGIN) * ((_MARGIN_BINS - 1) / (2.0 * _LARGEST_MARGIN))).astype(np.int64)
    return bins


def _area(others: Floats, own: Floats) -> float:
    """Return the area under the ROC curve of binned scores; a tie counts half."""
    lower = np.cumsum(others) - 0.5 * others
    return float(own @ lower / (own.sum() * others.sum()))
