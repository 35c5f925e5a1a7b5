"""LightGBM with a weighting: `EmphasisLGBMClassifier`, or `objective` for `lightgbm.train`.

Needs the extra `lightgbm`. LightGBM multiplies cross-entropy's p (1-p) by C / (C-1) where there are more than two
classes (J. Friedman, "Greedy function approximation", 2001), and so is done here: CCE grows the same trees as
"multiclass" and "binary", up to LightGBM's float32 gradients; "dart" draws what it drops differently beside any
objective that is not LightGBM's own, and linear trees start from scores of 0.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from emphasis.boosting.labels import FloatArray, checked_classes, initial_score, numbers_among, one_column
from emphasis.boosting.objective import Objective, check_refused, in_rounds
from emphasis.errors import EmphasisValueError
from emphasis.extras import missing_extra
from emphasis.weighting import MaxMargin, WeightingLike
from emphasis.weighting.options import Normalization
from emphasis.weighting.parameters import nested_parameters, resolve_nested, without_nested

try:
    from lightgbm import Booster, LGBMClassifier
    from scipy.special import expit, softmax
    from sklearn.metrics import log_loss
    from sklearn.utils.class_weight import compute_sample_weight
except ModuleNotFoundError as error:
    raise missing_extra("emphasis.boosting.lightgbm", "lightgbm", error) from None

OWN = ("weighting", "normalization", "max_margin")


def objective(
    weighting: WeightingLike | None = None,
    *,
    normalization: Normalization = "integral",
    max_margin: MaxMargin = "auto",
) -> Callable[[Any, Any], tuple[FloatArray, FloatArray]]:
    """Return what `lightgbm.train({"objective": ..., "num_class": C}, dataset)` takes; num_class 1 for two classes.

    LightGBM starts from scores of 0 then, its metrics get raw scores, and so does `Booster.predict`;
    `EmphasisLGBMClassifier` takes care of all three.

    Args:
        weighting: As for `emphasis.boosting.Objective`.
        normalization: As for `emphasis.boosting.Objective`.
        max_margin: As for `emphasis.boosting.Objective`.

    Examples:
        >>> import lightgbm
        >>> from sklearn.datasets import load_iris
        >>> from emphasis.boosting.lightgbm import objective
        >>> X, y = load_iris(return_X_y=True)
        >>> params = {"objective": objective(), "num_class": 3, "verbose": -1, "num_threads": 1}
        >>> booster = lightgbm.train(params, lightgbm.Dataset(X, label=y), num_boost_round=5)
        >>> booster.predict(X).shape  # raw scores
        (150, 3)
    """
    own = Objective(weighting, normalization, max_margin)

    def of_dataset(predictions: Any, dataset: Any) -> tuple[FloatArray, FloatArray]:
        # Not one function for all calls, which would overwrite what callers may still hold.
        return of_labels(own)(dataset.get_label(), predictions, dataset.get_weight())

    return of_dataset


def of_labels(own: Objective) -> Callable[..., tuple[FloatArray, FloatArray]]:
    """Return the objective in the form that LightGBM's estimators take; see `in_rounds`."""
    return in_rounds(own, lambda classes: classes / (classes - 1))


class EmphasisLGBMClassifier(LGBMClassifier):  # type: ignore[misc]
    """`lightgbm.LGBMClassifier` that learns with a weighting instead of cross-entropy.

    Early stopping, evaluation sets, sample and class weights, importances, callbacks and saved models are LightGBM's
    own; the fitted booster is a plain "multiclass" or "binary" one, the first scores within its first trees.
    `fit` takes as eval_metric "logloss" (the default), "error", or functions of y_true and probabilities, and a list of
    these; for two classes also "auc" and "average_precision".

    Args:
        weighting: As for `emphasis.boosting.Objective`; None for the default weighting.
        normalization: As for `emphasis.boosting.Objective`.
        max_margin: As for `emphasis.boosting.Objective`.
        **parameters: Those of `LGBMClassifier`, `objective` excepted.

    Examples:
        >>> from sklearn.datasets import load_iris
        >>> from emphasis.boosting import EmphasisLGBMClassifier
        >>> X, y = load_iris(return_X_y=True)
        >>> model = EmphasisLGBMClassifier(n_estimators=10, n_jobs=1, verbose=-1).fit(X, y)
        >>> model.predict_proba(X).shape, model.score(X, y) > 0.9
        ((150, 3), True)
    """

    objective: Any
    _objective: Any

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

    def set_params(self, **params: Any) -> EmphasisLGBMClassifier:
        """Set parameters; `weighting__beta` changes beta of the weighting."""
        super().set_params(**resolve_nested(params, self.weighting))
        return self

    def _process_params(self, stage: str) -> dict[str, Any]:
        """Return the parameters that LightGBM itself knows; its own metrics would take raw scores for probabilities."""
        known = without_nested(super()._process_params(stage))
        params = {name: value for name, value in known.items() if name not in OWN}
        if stage == "fit" and callable(self._objective):
            kept = [name for name in np.atleast_1d(params.get("metric", [])) if name in _RANKINGS]
            params = {**BESIDE_AN_OBJECTIVE, **params, "metric": kept or "None"}
        return params

    def fit(self, X: Any, y: Any, sample_weight: Any = None, **arguments: Any) -> EmphasisLGBMClassifier:
        """Fit; see `lightgbm.LGBMClassifier.fit` for the arguments.

        Raises:
            ValueError: A parameter is not allowed; `objective`, or one that only LightGBM's objectives know, was given.
        """
        own = Objective(self.weighting, self.normalization, self.max_margin)
        parameters = self.get_params(deep=False)
        check_refused(parameters, CURES, NEUTRAL)
        if own.is_cross_entropy:
            checked_classes(y)
            self._objective = None
            super().fit(X, y, sample_weight, **arguments)
            return self
        arguments["eval_metric"] = metrics_of_scores(arguments.get("eval_metric"))
        if (labels := arguments.get("eval_y")) is not None:  # LightGBM numbers those of eval_set alone
            sets = labels if isinstance(labels, tuple) else (labels,)
            classes = checked_classes(y)[0]
            arguments["eval_y"] = tuple(numbers_among(classes, part) for part in sets)
            if not isinstance(arguments["eval_X"], tuple):
                arguments["eval_X"] = (arguments["eval_X"],)
        start = self._start(y, sample_weight, arguments) if starts_from_shares(parameters) else None
        if start is not None:
            arguments["init_score"] = repeated(start, len(y))
            arguments["eval_init_score"] = [repeated(start, len(labels)) for labels in _evaluation_labels(arguments)]
        self.objective = self._objective = of_labels(own)
        try:
            super().fit(X, y, sample_weight, **arguments)
        finally:
            self.objective = None
        self._objective = "multiclass" if self.n_classes_ > 2 else "binary"  # which predict_proba looks at
        make_plain(self.booster_, self.n_classes_, start)
        return self

    def _start(self, y: Any, sample_weight: Any, arguments: dict[str, Any]) -> FloatArray | None:
        """Return the scores that LightGBM's own objectives start from, (C,), or (1,) for two classes."""
        if arguments.get("init_score") is not None or arguments.get("init_model") is not None:
            return None
        if self.class_weight is not None:
            of_class = compute_sample_weight(self.class_weight, one_column(y))
            sample_weight = of_class if sample_weight is None else np.multiply(sample_weight, of_class)
        return scores_of(initial_score(y, sample_weight))


BESIDE_AN_OBJECTIVE = {  # LightGBM ends with an error if it leaves out all features of few rows, except with its own
    "feature_pre_filter": False,
}
_RANKINGS = ("auc", "average_precision")  # which raw scores serve as well as probabilities
_USE_CLASS_WEIGHT = "use class_weight or sample_weight"
CURES = {  # parameters that LightGBM heeds in its own objectives and metrics only
    "objective": "the weighting is the objective",
    "is_unbalance": _USE_CLASS_WEIGHT,
    "scale_pos_weight": _USE_CLASS_WEIGHT,
    "metric": "give eval_metric to fit",
}
NEUTRAL = {"is_unbalance": False, "scale_pos_weight": 1}


def starts_from_shares(parameters: Mapping[str, Any]) -> bool:
    """Return whether LightGBM's own objectives start from the shares of the classes."""
    linear = parameters.get("linear_tree") or parameters.get("linear_trees")  # whose leaves are no constants
    return bool(parameters.get("boost_from_average", True) and not linear)


def scores_of(log_share: FloatArray) -> FloatArray:
    """Return the scores that LightGBM's own objectives start from, (C,), or (1,) for two classes."""
    return log_share if len(log_share) > 2 else log_share[1:] - log_share[:1]


def _evaluation_labels(arguments: dict[str, Any]) -> list[Any]:
    """Return the labels of each evaluation set, in whichever of LightGBM's two ways they are given."""
    sets, labels = arguments.get("eval_set"), arguments.get("eval_y")
    if sets is not None:
        return [pair[1] for pair in ([sets] if isinstance(sets, tuple) else sets)]
    return list(labels or [])


def repeated(start: FloatArray, examples: int) -> FloatArray:
    """Return the same scores for each example, (N, C), or (N,) for two classes."""
    return np.full(examples, start[0]) if len(start) == 1 else np.tile(start, (examples, 1))


def metrics_of_scores(eval_metric: Any) -> list[str | Callable[..., Any]]:
    """Return metrics of raw scores: LightGBM has no others beside a custom objective."""
    metrics = eval_metric or "logloss"
    return [_metric_of_scores(metric) for metric in (metrics if isinstance(metrics, list) else [metrics])]


def _metric_of_scores(metric: str | Callable[..., Any]) -> str | Callable[..., Any]:
    if isinstance(metric, str):
        if metric in _RANKINGS:
            return metric
        name = metric.removeprefix("multi_").removeprefix("binary_")
        if name not in _METRICS:
            allowed = ", ".join(map(repr, (*_METRICS, *_RANKINGS)))
            raise EmphasisValueError(
                f"eval_metric={metric!r} is not allowed; use {allowed}, or a function of y_true and p"
            )
        metric = _METRICS[name]
    of_probabilities, weighted = metric, len(inspect.signature(metric).parameters) > 2

    def of_scores(y_true: Any, raw: Any, weight: Any) -> Any:
        p = expit(raw) if raw.ndim == 1 else softmax(raw, axis=1)
        return of_probabilities(y_true, p, weight) if weighted else of_probabilities(y_true, p)

    return of_scores


def _log_loss(y_true: Any, p: Any, weight: Any) -> tuple[str, float, bool]:
    classes = 2 if p.ndim == 1 else p.shape[1]
    name = "binary_logloss" if p.ndim == 1 else "multi_logloss"
    return name, float(log_loss(y_true, p, sample_weight=weight, labels=range(classes))), False


def _error(y_true: Any, p: Any, weight: Any) -> tuple[str, float, bool]:
    predicted = p > 0.5 if p.ndim == 1 else p.argmax(1)
    name = "binary_error" if p.ndim == 1 else "multi_error"
    return name, float(np.average(predicted != y_true, weights=weight)), False


_METRICS: dict[str, Callable[..., Any]] = {"logloss": _log_loss, "error": _error}


def make_plain(booster: Booster, num_classes: int, start: FloatArray | None) -> None:
    """Turn the booster, in place, into what LightGBM's own objective gives: first scores in the first trees."""
    if start is not None:
        leaves = [tree["num_leaves"] for tree in booster.dump_model(num_iteration=1)["tree_info"]]
        for tree, (count, score) in enumerate(zip(leaves, start, strict=True)):
            for leaf in range(count):
                booster.set_leaf_output(tree, leaf, booster.get_leaf_output(tree, leaf) + score)
    name = f"multiclass num_class:{num_classes}" if num_classes > 2 else "binary sigmoid:1"
    text = booster.model_to_string(num_iteration=-1)
    if start is not None:  # LightGBM gives trees that hold first scores a shrinkage of 1, at which `refit` looks
        head, *trees = text.split("\nTree=")
        trees[: len(start)] = [re.sub(r"(?<=\nshrinkage=).*", _one_of_length, tree) for tree in trees[: len(start)]]
        text = "\nTree=".join([head, *trees])
    booster.model_from_string(text.replace("\nfeature_names=", f"\nobjective={name}\nfeature_names=", 1))
    objective, *values = name.split()  # `Booster.refit` looks at these
    booster.params.update({"objective": objective, **dict(value.split(":") for value in values)})
    booster._Booster__set_objective_to_none = False


def _one_of_length(number: re.Match[str]) -> str:
    """Return the number 1 as a text of the same length: a model's text says how long each tree is."""
    return "1".ljust(2, ".").ljust(len(number.group()), "0")[: len(number.group())]
