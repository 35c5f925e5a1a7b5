"""XGBoost on a Dask cluster with a weighting: `EmphasisDaskXGBClassifier`.

Needs the extra `dask`. Each worker evaluates the weighting for its own rows. What a weighting sums over all rows of a
round (`Relative`) is summed over the workers by XGBoost's own collective operations, so that the derivatives are those
of one process.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from emphasis.boosting.dask.partitions import check_client, count_classes, train_again_without_lost_workers
from emphasis.boosting.labels import FloatArray, initial_score_of_totals
from emphasis.boosting.objective import Objective, check_refused
from emphasis.boosting.xgboost import CURES, NEUTRAL, OWN, base_score_of, of_labels
from emphasis.errors import EmphasisValueError
from emphasis.extras import missing_extra
from emphasis.weighting import MaxMargin, WeightingLike
from emphasis.weighting.options import Normalization
from emphasis.weighting.parameters import nested_parameters, resolve_nested, without_nested

try:
    from xgboost.collective import Op, allreduce
    from xgboost.dask import DaskXGBClassifier
except ModuleNotFoundError as error:
    raise missing_extra("emphasis.boosting.dask.xgboost", "dask", error) from None


def _sum_over_workers(sums: FloatArray) -> FloatArray:
    total: FloatArray = allreduce(sums, Op.SUM)
    return total


def objective_of_part(own: Objective, num_classes: int) -> Callable[..., tuple[FloatArray, FloatArray]]:
    """Return the objective of a worker's examples in the form that XGBoost's estimators take."""
    derivatives = of_labels(own, _sum_over_workers)

    def of_part(y_true: Any, y_pred: Any, sample_weight: Any = None) -> tuple[FloatArray, FloatArray]:
        if num_classes > 2:
            y_pred = y_pred.reshape(len(y_true), num_classes)  # XGBoost gives a worker without examples no columns
        return derivatives(y_true, y_pred, sample_weight)

    return of_part


class EmphasisDaskXGBClassifier(DaskXGBClassifier):  # type: ignore[misc]
    """`xgboost.dask.DaskXGBClassifier` that learns with a weighting instead of cross-entropy.

    Early stopping, evaluation sets, metrics, sample weights, callbacks and saved models are XGBoost's own; a saved
    model is a plain "multi:softprob" or "binary:logistic" one, as that of `EmphasisXGBClassifier`. If a worker is lost
    during training, the training starts again on the other workers, with a warning.

    Args:
        weighting: As for `emphasis.boosting.Objective`; None for the default weighting.
        normalization: "integral" or None, as for `emphasis.boosting.Objective`. "batch" is refused: its divisor would
            be each worker's own.
        max_margin: As for `emphasis.boosting.Objective`.
        coll_cfg: As for `DaskXGBClassifier`.
        **parameters: Those of `DaskXGBClassifier`, `objective` excepted.
    """

    objective: Any
    base_score: Any

    def __init__(
        self,
        *,
        weighting: WeightingLike | None = None,
        normalization: Normalization = "integral",
        max_margin: MaxMargin = "auto",
        coll_cfg: Any = None,
        **parameters: Any,
    ) -> None:
        self.weighting = weighting
        self.normalization = normalization
        self.max_margin = max_margin
        super().__init__(coll_cfg=coll_cfg, **parameters)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters, with `deep` those of the weighting as well, such as `weighting__beta`."""
        params: dict[str, Any] = super().get_params(deep)
        return params | (nested_parameters(self.weighting) if deep else {})

    def set_params(self, **params: Any) -> EmphasisDaskXGBClassifier:
        """Set parameters; `weighting__beta` changes beta of the weighting."""
        super().set_params(**resolve_nested(params, self.weighting))
        return self

    def get_xgb_params(self) -> dict[str, Any]:
        """Return the parameters that XGBoost itself knows."""
        known = without_nested(super().get_xgb_params())
        return {name: value for name, value in known.items() if name not in OWN}

    def fit(self, X: Any, y: Any, **arguments: Any) -> EmphasisDaskXGBClassifier:
        """Fit; see `xgboost.dask.DaskXGBClassifier.fit` for the arguments, all of which are dask collections.

        y holds the class numbers 0 to C - 1. It is read once more than the other columns, to count the classes.

        Raises:
            TypeError: If y is not a dask collection, or the client is asynchronous.
            ValueError: If a parameter is not allowed, or y holds other labels than 0 to C - 1.
        """
        if self.objective not in (None, "binary:logistic", "multi:softprob"):
            raise EmphasisValueError(f"objective={self.objective!r} is not allowed; the weighting is the objective")
        check_refused(self.get_params(deep=False), CURES, NEUTRAL)
        own = Objective(self.weighting, self.normalization, self.max_margin)
        own.check_parts(sums_are_shared=True)
        client = self.client
        check_client(client)
        classes, totals, _ = count_classes(client, y, arguments.get("sample_weight"))
        if not np.array_equal(classes, np.arange(len(classes))):
            raise EmphasisValueError(
                f"y holds the labels {classes[:10].tolist()}; XGBoost on Dask takes class numbers, 0 to C - 1"
            )
        given = self.objective, self.base_score
        try:
            if not own.is_cross_entropy:
                self.objective = objective_of_part(own, len(classes))
                if self.base_score is None and arguments.get("xgb_model") is None:
                    # XGBoost estimates it for its own objectives alone.
                    self.base_score = base_score_of(initial_score_of_totals(classes, totals))
            fit = super().fit
            train_again_without_lost_workers(client, lambda: fit(X, y, **arguments))
        finally:
            self.objective, self.base_score = given
        if not isinstance(inspect.getattr_static(type(self), "classes_", None), property):  # of XGBoost 3.3 and later
            self.classes_ = classes  # in their order, which those of a dataframe are not
        # What XGBoost sets itself when the objective is its own: prediction looks at it.
        self.objective = "multi:softprob" if len(classes) > 2 else "binary:logistic"
        return self
