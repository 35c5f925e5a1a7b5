"""Calibration of a classifier's probabilities on held-out rows, by scikit-learn's sigmoid or isotonic calibration.

A weighting that reduces the influence of labels distorts probabilities, most of all in boosting. They are corrected
with the out-of-fold predictions of the cross-validation: each class is calibrated against the others, and the results
are normalized, as in `CalibratedClassifierCV`.
The fitted numbers are saved as JSON, without pickles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from emphasis.comparison import difference
from emphasis.errors import EmphasisValueError
from emphasis.extras import missing_extra
from emphasis.scores import Held

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.calibration import CalibratedClassifierCV
except ModuleNotFoundError as error:
    raise missing_extra("emphasis.tabular", "fit", error) from None

Floats = NDArray[np.float64]
Method = Literal["sigmoid", "isotonic"]

_ISOTONIC_ROWS, _ISOTONIC_CLASS = (
    1000,
    100,
)  # minimum numbers of rows in all, and of the rarest class, for isotonic calibration
_OF_PREDICTIONS = ("accuracy", "balanced_accuracy", "macro_f1")  # scores that calibration must not make worse
LEAST = 1e-12  # probabilities are moved into [LEAST, 1 - LEAST] before their log-odds are taken


@dataclass(frozen=True)
class Calibration:
    """Calibration of probabilities of C classes.

    Attributes:
        method: "sigmoid" or "isotonic".
        curves: Calibrated probability as a function of the log-odds, for each class or for the second of two: numbers a
            and b of 1 / (1 + exp(a x + b)), or abscissas and ordinates of a line; () for a class that is not
            calibrated.
    """

    method: Method
    curves: tuple[tuple[Any, ...], ...]

    def apply(self, p: Floats) -> Floats:
        """Return calibrated probabilities (N, C) of probabilities (N, C)."""
        if p.shape[1] == 2:
            positive = self._apply_curve(p[:, 1], self.curves[0])
            return np.stack([1.0 - positive, positive], axis=1)
        separate = np.stack([self._apply_curve(p[:, k], curve) for k, curve in enumerate(self.curves)], axis=1)
        return np.asarray(separate / separate.sum(1, keepdims=True))

    def _apply_curve(self, p: Floats, curve: tuple[Any, ...]) -> Floats:
        if not curve:
            return p
        x = _log_odds(p)
        if self.method == "isotonic":
            return np.asarray(np.interp(x, *curve))
        slope, intercept = curve
        return np.asarray(1.0 / (1.0 + np.exp(np.clip(slope * x + intercept, -500.0, 500.0))))

    def to_dict(self) -> dict[str, Any]:
        """Return the content for JSON."""
        return {"method": self.method, "curves": [list(curve) for curve in self.curves]}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], num_classes: int) -> Calibration:
        """Return the calibration of `to_dict`.

        Raises:
            KeyError, TypeError, ValueError: The content is not a calibration of `num_classes` classes.
        """
        method, curves = content["method"], content["curves"]
        if method not in ("sigmoid", "isotonic") or len(curves) != (1 if num_classes == 2 else num_classes):
            raise EmphasisValueError("the calibration does not fit the classes")
        checked = [tuple(np.asarray(part, np.float64) for part in curve) for curve in curves]
        dimensions = 0 if method == "sigmoid" else 1
        for curve in filter(None, checked):
            same = len(curve) == 2 and curve[0].shape == curve[1].shape and curve[0].ndim == dimensions
            if not same or not all(np.isfinite(part).all() and part.size for part in curve):
                raise EmphasisValueError("the calibration holds an invalid curve")
        return cls(method, tuple(tuple(part.tolist() for part in curve) for curve in checked))


class _LogOdds(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A fitted classifier of two classes whose only feature is its score."""

    classes_ = np.array([False, True])
    is_fitted_ = True

    def fit(self, x: Any, y: Any, sample_weight: Any = None) -> _LogOdds:  # noqa: ARG002
        """Do nothing."""
        return self

    def decision_function(self, x: Any) -> Any:
        """Return the feature."""
        return x[:, 0]

    def predict(self, x: Any) -> Any:
        """Return the sign of the feature."""
        return x[:, 0] > 0.0


def _log_odds(p: Floats) -> Floats:
    inside = np.clip(p, LEAST, 1.0 - LEAST)
    return np.asarray(np.log(inside) - np.log1p(-inside))


def fit_calibration(method: Method, given: NDArray[np.int64], p: Floats, weights: Floats) -> Calibration:
    """Return the calibration of held-out probabilities.

    Args:
        method: "sigmoid" or "isotonic".
        given: Class of each row, shape (N,).
        p: Probabilities predicted by models that were not trained on the row, shape (N, C).
        weights: Weight of each row, shape (N,).
    """
    labels = [1] if p.shape[1] == 2 else range(p.shape[1])
    return Calibration(method, tuple(_curve(method, _log_odds(p[:, k]), given == k, weights) for k in labels))


def _curve(method: Method, x: Floats, positive: NDArray[np.bool_], weights: Floats) -> tuple[Any, ...]:
    if not weights[positive].any() or not weights[~positive].any():
        return ()
    rows = np.arange(len(x))
    fitted = CalibratedClassifierCV(_LogOdds(), method=method, cv=[(rows, rows)], ensemble=False)
    fitted.fit(x[:, None], positive, sample_weight=weights)
    curve = fitted.calibrated_classifiers_[0].calibrators[0]
    if method == "sigmoid":
        return float(curve.a_), float(curve.b_)
    least = 1.0 / (len(x) + 2.0)  # keeps probabilities above 0
    return curve.X_thresholds_.tolist(), np.clip(curve.y_thresholds_, least, 1.0 - least).tolist()


def calibrate_held_out(
    given: NDArray[np.int64], p: Floats, weights: Floats, fold: NDArray[np.int64]
) -> tuple[Floats, Calibration | None]:
    """Calibrate out-of-fold probabilities if that makes log loss clearly better and predictions not clearly worse.

    This is measured on probabilities of each fold that are calibrated with the rows of the other folds. Isotonic
    calibration is tried if there are many rows of every class, and sigmoid calibration otherwise or if it fails.

    Args:
        given: Class of each row, shape (N,).
        p: Out-of-fold probabilities, shape (N, C).
        weights: Weight of each row, shape (N,).
        fold: Fold in which each row was held out, shape (N,).

    Returns:
        The calibrated probabilities, and a calibration fitted on all rows for a model that is trained on all rows; `p`
        and None if calibration does not help.
    """
    before = Held.of(given, p, weights)
    counts = np.bincount(given, weights > 0.0, p.shape[1])
    many = counts.sum() >= _ISOTONIC_ROWS and counts.min() >= _ISOTONIC_CLASS
    methods: list[Method] = ["isotonic", "sigmoid"] if many else ["sigmoid"]
    for method in methods:
        calibrated = np.empty_like(p)
        for number in range(fold.max() + 1):
            rows, others = fold == number, fold != number
            fitted = fit_calibration(method, given[others], p[others], weights[others])
            calibrated[rows] = fitted.apply(p[rows])
        after = Held.of(given, calibrated, weights)
        results = {name: difference(name, after, before)["result"] for name in ("log_loss", *_OF_PREDICTIONS)}
        if results["log_loss"] == "better" and "worse" not in results.values():
            return calibrated, fit_calibration(method, given, p, weights)
    return p, None
