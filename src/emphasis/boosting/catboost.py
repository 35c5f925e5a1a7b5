"""CatBoost with a weighting: `EmphasisCatBoostClassifier`.

Needs the extra `catboost`. CatBoost takes the whole matrix of second derivatives, one example at a time where there are
more than two classes: 20 to 30 microseconds of Python per example and round. CCE grows the same trees as "MultiClass"
and "Logloss" with the same learning rate and leaf_estimation_iterations, which CatBoost chooses for its own objectives
by the size of the data (learning rate) and as 10 ("Logloss"); beside a custom objective it takes 0.03 and 1.
"""

from __future__ import annotations

import json
import warnings
from typing import Any

import numpy as np

from emphasis.boosting.labels import checked_classes, numbers_among
from emphasis.boosting.objective import Objective, check_refused
from emphasis.errors import EmphasisTypeError
from emphasis.extras import missing_extra
from emphasis.weighting import MaxMargin, WeightingLike
from emphasis.weighting.options import Normalization
from emphasis.weighting.parameters import nested_parameters, resolve_nested

try:
    from catboost import CatBoostClassifier
except ModuleNotFoundError as error:
    raise missing_extra("emphasis.boosting.catboost", "catboost", error) from None


class TwoClasses:
    """The objective in the form that CatBoost takes for two classes: derivatives of minus the loss."""

    def __init__(self, own: Objective) -> None:
        self._own = own

    def calc_ders_range(self, approxes: Any, targets: Any, weights: Any) -> Any:
        """Return (N, 2): first and second derivative of each example."""
        return -np.stack(self._own.gradient_hessian(targets, approxes, weights), axis=1)


class ManyClasses:
    """The objective in the form that CatBoost takes for three classes and more."""

    def __init__(self, own: Objective) -> None:
        self._own = own

    def calc_ders_multi(self, approxes: Any, target: float, weight: float) -> tuple[Any, Any]:
        """Return one example's first derivatives (C,), and its matrix of second ones (C, C)."""
        gradient, matrix = self._own.of_example(int(target), approxes, weight)
        return -gradient, -matrix


class EmphasisCatBoostClassifier(CatBoostClassifier):  # type: ignore[misc]
    """`catboost.CatBoostClassifier` that learns with a weighting instead of cross-entropy.

    Early stopping, evaluation sets, categorical features, sample and class weights, importances and saved models are
    CatBoost's own; a fitted model is a plain "MultiClass" or "Logloss" one. Data are arrays or tables, not `Pool`s.

    Args:
        weighting: See `emphasis.boosting.Objective`, as for the next two. None: `DEFAULT_WEIGHTING`.
        normalization: Likewise; "batch" for two classes only.
        max_margin: Likewise.
        **parameters: Those of `CatBoostClassifier`, `loss_function` and `objective` excepted.
    """

    _init_params: dict[str, Any]
    _canonized_params: Any

    def __init__(
        self,
        *,
        weighting: WeightingLike | None = None,
        normalization: Normalization = "integral",
        max_margin: MaxMargin = "auto",
        **parameters: Any,
    ) -> None:
        super().__init__(**parameters)
        # Where CatBoost keeps every parameter, so that clone, pickle and set_params know them.
        self._init_params.update(weighting=weighting, normalization=normalization, max_margin=max_margin)

    def get_params(self, deep: bool = True, **arguments: Any) -> dict[str, Any]:
        """Return the parameters, with `deep` those of the weighting as well, such as `weighting__beta`.

        The weighting is the object that was given: CatBoost copies parameters, which `sklearn.base.clone` refuses.
        """
        params: dict[str, Any] = super().get_params(**arguments)
        params |= {name: self._init_params[name] for name in _OWN if name in self._init_params}
        return params | (nested_parameters(params.get("weighting")) if deep else {})

    def set_params(self, **params: Any) -> EmphasisCatBoostClassifier:
        """Set parameters; `weighting__beta` changes beta of the weighting."""
        super().set_params(**resolve_nested(params, self._init_params.get("weighting")))
        return self

    def fit(self, X: Any, y: Any = None, **arguments: Any) -> EmphasisCatBoostClassifier:
        """Fit; see `catboost.CatBoostClassifier.fit` for the arguments.

        Raises:
            ValueError: A parameter is not allowed; `loss_function`, or one that CatBoost heeds in its own losses only,
                was given.
            TypeError: Data are a `Pool` or a file.
        """
        given = self._init_params
        weighting, *options = (given.get(name, default) for name, default in _OWN.items())
        own = Objective(weighting, *options)
        check_refused(given, _CURES, _NEUTRAL)
        sets = arguments.get("eval_set")
        sets = [] if sets is None else sets if isinstance(sets, list) else [sets]
        if y is None or not all(isinstance(pair, tuple) for pair in sets):
            raise EmphasisTypeError(
                "give X and y, and eval_set as (X, y), as arrays or tables: a Pool or a file is not allowed"
            )
        if own.is_cross_entropy:
            return self._fit_by_its_own_loss(X, y, arguments)
        classes, numbers = checked_classes(y)
        several = len(classes) > 2
        if several:
            own.check_single_examples()
        metric = "MultiClass" if several else "Logloss"
        params = {name: value for name, value in given.items() if name not in _OWN}
        # CatBoost's defaults beside its own loss; beside a custom one it has others.
        params = {"eval_metric": metric, **(params if several else {"leaf_estimation_iterations": 10, **params})}
        if several:
            params["classes_count"] = len(classes)
            if "subsample" not in params:
                params.setdefault("bootstrap_type", "Bayesian")
        params["loss_function"] = ManyClasses(own) if several else TwoClasses(own)
        self._init_params, self._canonized_params = params, None
        if sets:
            arguments["eval_set"] = [(table, numbers_among(classes, labels)) for table, labels in sets]
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*numba")  # it would compile plain functions, not a method
                super().fit(X, numbers, **arguments)
        finally:
            self._init_params, self._canonized_params = given, None
        _make_plain(self, metric, classes)
        return self

    def _fit_by_its_own_loss(self, X: Any, y: Any, arguments: dict[str, Any]) -> EmphasisCatBoostClassifier:
        given = self._init_params
        self._init_params = {name: value for name, value in given.items() if name not in _OWN}
        self._canonized_params = None
        try:
            super().fit(X, y, **arguments)
        finally:
            self._init_params, self._canonized_params = given, None
        return self


_OWN: dict[str, Any] = {"weighting": None, "normalization": "integral", "max_margin": "auto"}
_USE_SAMPLE_WEIGHT = "give sample_weight to fit"
_CURES = {
    "loss_function": "the weighting is the objective",
    "objective": "the weighting is the objective",
    "class_weights": _USE_SAMPLE_WEIGHT,
    "auto_class_weights": _USE_SAMPLE_WEIGHT,
    "scale_pos_weight": _USE_SAMPLE_WEIGHT,
    "class_names": "classes are the labels in their order",
    "classes_count": "classes are counted",
}
_NEUTRAL = {"scale_pos_weight": 1}


def _make_plain(model: CatBoostClassifier, loss: str, classes: Any) -> None:
    """Have the model say, in place, what one trained by CatBoost's own loss says: its loss and its classes."""
    metadata = model.get_metadata()
    kinds = {"b": "Boolean", "i": "Integer", "u": "Integer", "f": "Float"}
    metadata["class_params"] = json.dumps(
        {
            "class_label_type": kinds.get(classes.dtype.kind, "String"),
            "class_names": classes.tolist(),
            "class_to_label": list(range(len(classes))),
            "classes_count": 0,
        }
    )
    params = json.loads(metadata["params"])
    params["loss_function"] = {"type": loss, "params": {}}
    metadata["params"] = json.dumps(params)
