"""XGBoost with a weighting: `EmphasisXGBClassifier`, or `objective` for `xgboost.train`.

Needs the extra `xgboost`. XGBoost multiplies cross-entropy's p (1-p) by 2 where there are more than two classes, which
bounds the whole Hessian of several classes (its rows are diagonally dominant), and so is done here: CCE grows the
same trees as "multi:softprob" and "binary:logistic", up to XGBoost's float32 arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from emphasis.boosting.labels import FloatArray, checked_classes, initial_score
from emphasis.boosting.objective import Objective, Total, check_refused, in_rounds
from emphasis.errors import EmphasisValueError
from emphasis.extras import missing_extra
from emphasis.weighting import MaxMargin, WeightingLike
from emphasis.weighting.options import Normalization
from emphasis.weighting.parameters import nested_parameters, resolve_nested, without_nested

try:
    import sklearn as _sklearn  # noqa: F401
    from xgboost import XGBClassifier
except ModuleNotFoundError as error:
    raise missing_extra("emphasis.boosting.xgboost", "xgboost", error) from None

OWN = ("weighting", "normalization", "max_margin")
CURES = {"scale_pos_weight": "give sample_weight to fit"}  # parameters that XGBoost uses in its own objectives only
NEUTRAL = {"scale_pos_weight": 1}


def objective(
    weighting: WeightingLike | None = None,
    *,
    normalization: Normalization = "integral",
    max_margin: MaxMargin = "auto",
) -> Callable[[Any, Any], tuple[FloatArray, FloatArray]]:
    """Return what `xgboost.train(params, dtrain, obj=...)` takes.

    Give `params` the objective "multi:softprob" and num_class, or "binary:logistic": the booster takes the first
    scores, its metrics and its probabilities from there.

    Args:
        weighting: As for `emphasis.boosting.Objective`.
        normalization: As for `emphasis.boosting.Objective`.
        max_margin: As for `emphasis.boosting.Objective`.

    Examples:
        >>> import xgboost
        >>> from sklearn.datasets import load_iris
        >>> from emphasis.boosting.xgboost import objective
        >>> X, y = load_iris(return_X_y=True)
        >>> data = xgboost.DMatrix(X, label=y)
        >>> params = {"objective": "multi:softprob", "num_class": 3}
        >>> booster = xgboost.train(params, data, num_boost_round=5, obj=objective())
        >>> booster.predict(data).shape
        (150, 3)
    """
    own = Objective(weighting, normalization, max_margin)

    def of_matrix(predictions: Any, matrix: Any) -> tuple[FloatArray, FloatArray]:
        weight = matrix.get_weight()
        # Not one function for all calls, which would overwrite what callers may still hold.
        return of_labels(own)(matrix.get_label(), predictions, weight if weight.size else None)

    return of_matrix


def of_labels(own: Objective, total: Total | None = None) -> Callable[..., tuple[FloatArray, FloatArray]]:
    """Return the objective in the form that XGBoost's estimators take; see `in_rounds`."""
    return in_rounds(own, lambda _: 2.0, total)


def base_score_of(log_share: FloatArray) -> Any:
    """Return what XGBoost takes as base_score: centered scores of several classes, or class 1's share of two."""
    return float(np.exp(log_share[1])) if len(log_share) == 2 else (log_share - log_share.mean()).tolist()


class EmphasisXGBClassifier(XGBClassifier):  # type: ignore[misc]
    """`xgboost.XGBClassifier` that learns with a weighting instead of cross-entropy.

    Early stopping, evaluation sets, metrics, sample weights, importances, callbacks and saved models are XGBoost's
    own; a saved model is a plain "multi:softprob" or "binary:logistic" one.

    Args:
        weighting: As for `emphasis.boosting.Objective`; None for the default weighting.
        normalization: As for `emphasis.boosting.Objective`.
        max_margin: As for `emphasis.boosting.Objective`.
        **parameters: Those of `XGBClassifier`, `objective` excepted.

    Examples:
        >>> from sklearn.datasets import load_iris
        >>> from emphasis.boosting import EmphasisXGBClassifier
        >>> X, y = load_iris(return_X_y=True)
        >>> model = EmphasisXGBClassifier(n_estimators=10).fit(X, y)
        >>> model.predict_proba(X).shape, model.score(X, y) > 0.9
        ((150, 3), True)
    """

    objective: Any
    base_score: Any

    def __init__(
        self,
        *,
        weighting: WeightingLike | None = None,
        normalization: Normalization = "integral",
        max_margin: MaxMargin = "auto",
        **parameters: Any,
    ) -> None:
        self.weighting = weighting
        self.normalization = normalization
        self.max_margin = max_margin
        super().__init__(**parameters)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters, with `deep` those of the weighting as well, such as `weighting__beta`."""
        params: dict[str, Any] = super().get_params(deep)
        return params | (nested_parameters(self.weighting) if deep else {})

    def set_params(self, **params: Any) -> EmphasisXGBClassifier:
        """Set parameters; `weighting__beta` changes beta of the weighting."""
        super().set_params(**resolve_nested(params, self.weighting))
        return self

    def get_xgb_params(self) -> dict[str, Any]:
        """Return the parameters that XGBoost itself knows."""
        known = without_nested(super().get_xgb_params())
        return {name: value for name, value in known.items() if name not in OWN}

    def fit(self, X: Any, y: Any, **arguments: Any) -> EmphasisXGBClassifier:
        """Fit; see `xgboost.XGBClassifier.fit` for the arguments.

        Raises:
            ValueError: If a parameter is not allowed, or `objective` or `scale_pos_weight` was given.
        """
        if self.objective not in ("binary:logistic", "multi:softprob"):
            raise EmphasisValueError(f"objective={self.objective!r} is not allowed; the weighting is the objective")
        check_refused(self.get_params(deep=False), CURES, NEUTRAL)
        own = Objective(self.weighting, self.normalization, self.max_margin)
        given = self.objective, self.base_score
        try:
            if own.is_cross_entropy:
                checked_classes(y)
            else:
                self.objective = of_labels(own)
                if self.base_score is None and arguments.get("xgb_model") is None:
                    # XGBoost estimates it for its own objectives alone.
                    self.base_score = base_score_of(initial_score(y, arguments.get("sample_weight")))
            super().fit(X, y, **arguments)
        finally:
            self.objective, self.base_score = given
        # What XGBoost sets itself when the objective is its own: prediction looks at it.
        self.objective = "multi:softprob" if self.n_classes_ > 2 else "binary:logistic"
        return self
