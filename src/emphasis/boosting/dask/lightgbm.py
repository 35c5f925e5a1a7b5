"""LightGBM on a Dask cluster with a weighting: `EmphasisDaskLGBMClassifier`.

Needs the extras `dask` and `lightgbm`. LightGBM itself has each worker number the classes of its own rows and evaluate
metrics on its own rows. So every partition must hold each class, and evaluation sets are given to every worker as a
whole: all workers then stop after the same round.
"""

from __future__ import annotations

import warnings
from typing import Any

import dask
import dask.array as da
from dask import delayed
from distributed import default_client

from emphasis.boosting.dask.partitions import (
    check_client,
    count_classes,
    parts_of,
    train_again_without_lost_workers,
)
from emphasis.boosting.labels import FloatArray, initial_score_of_totals, numbers_among
from emphasis.boosting.lightgbm import (
    BESIDE_AN_OBJECTIVE,
    CURES,
    NEUTRAL,
    OWN,
    EmphasisLGBMClassifier,
    make_plain,
    metrics_of_scores,
    of_labels,
    repeated,
    scores_of,
    starts_from_shares,
)
from emphasis.boosting.objective import Objective, check_refused
from emphasis.errors import EmphasisValueError
from emphasis.extras import missing_extra
from emphasis.weighting import MaxMargin, WeightingLike
from emphasis.weighting.options import Normalization
from emphasis.weighting.parameters import nested_parameters, resolve_nested, without_nested

try:
    from lightgbm import DaskLGBMClassifier, LGBMClassifier

    from emphasis.compatibility.lightgbm import close_connections
except ModuleNotFoundError as error:
    raise missing_extra("emphasis.boosting.dask.lightgbm", "lightgbm", error) from None

_CURES = {**CURES, "class_weight": "give sample_weight to fit"}
_REFUSED = ("init_score", "eval_init_score", "eval_class_weight", "init_model")


class _WorkersClassifier(LGBMClassifier):  # type: ignore[misc]
    """What a worker trains: `LGBMClassifier` with the whole evaluation sets instead of the worker's share of them."""

    def fit(self, X: Any, y: Any, *, whole_sets: dict[str, Any], **arguments: Any) -> _WorkersClassifier:
        try:
            super().fit(X, y, **{**arguments, **whole_sets})
        except BaseException:
            # LightGBM leaves the connections of a training that has failed open: the other workers would wait for this
            # one, and the next training here would use them.
            close_connections()
            raise
        return self


class EmphasisDaskLGBMClassifier(DaskLGBMClassifier):  # type: ignore[misc]
    """`lightgbm.DaskLGBMClassifier` that learns with a weighting instead of cross-entropy.

    Sample weights, importances, callbacks and saved models are LightGBM's own; the fitted booster is a plain
    "multiclass" or "binary" one. Unlike `DaskLGBMClassifier` it supports early stopping: evaluation sets are gathered,
    and evaluated as a whole by every worker. If a worker is lost during training, the training starts again on the
    other workers, with a warning.

    Args:
        weighting: As for `emphasis.boosting.Objective`, and required. `Relative`, the default of the other estimators,
            is refused: it compares each example with all examples of a round, and LightGBM gives each worker its own
            ones only.
        normalization: "integral" or None, as for `emphasis.boosting.Objective`. "batch" is refused: its divisor would
            be each worker's own.
        max_margin: As for `emphasis.boosting.Objective`.
        client: As for `DaskLGBMClassifier`.
        **parameters: Those of `DaskLGBMClassifier`, `objective` and `class_weight` excepted.
    """

    objective: Any
    _objective: Any
    _other_params: dict[str, Any]

    def __init__(
        self,
        *,
        weighting: WeightingLike | None = None,
        normalization: Normalization = "integral",
        max_margin: MaxMargin = "auto",
        client: Any = None,
        **parameters: Any,
    ) -> None:
        self.weighting = weighting
        self.normalization = normalization
        self.max_margin = max_margin
        super().__init__(client=client, **parameters)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters, with `deep` those of the weighting as well, such as `weighting__beta`."""
        params: dict[str, Any] = super().get_params(deep)
        return params | (nested_parameters(self.weighting) if deep else {})

    def set_params(self, **params: Any) -> EmphasisDaskLGBMClassifier:
        """Set parameters; `weighting__beta` changes beta of the weighting."""
        super().set_params(**resolve_nested(params, self.weighting))
        return self

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        eval_set: Any = None,
        eval_sample_weight: Any = None,
        eval_metric: Any = None,
        **arguments: Any,
    ) -> EmphasisDaskLGBMClassifier:
        """Fit; see `lightgbm.DaskLGBMClassifier.fit` for the arguments.

        Args:
            X: A dask array or dataframe.
            y: Labels, a dask array or series. Each partition holds every class.
            sample_weight: Weights, a dask array or series.
            eval_set: List of pairs (X, y) of dask collections, which fit into the memory of each worker.
            eval_sample_weight: List of their weights.
            eval_metric: As for `EmphasisLGBMClassifier.fit`.
            **arguments: Others of `LGBMClassifier.fit`, such as `callbacks`.

        Raises:
            TypeError: If y is not a dask collection, or the client is asynchronous.
            ValueError: If a parameter or the weighting is not allowed, or a partition lacks a class.
        """
        own = Objective(self.weighting, self.normalization, self.max_margin)
        own.check_parts(sums_are_shared=False)
        parameters = self.get_params(deep=False)
        check_refused(parameters, _CURES, NEUTRAL)
        check_refused(arguments, dict.fromkeys(_REFUSED, "it is not supported on Dask"), {})
        client = default_client() if self.client is None else self.client
        check_client(client)
        classes, totals, of_parts = count_classes(client, y, sample_weight)
        if lacking := [number for number, known in enumerate(of_parts) if len(known) < len(classes)]:
            raise EmphasisValueError(
                f"{len(lacking)} of {len(of_parts)} partitions, such as number {lacking[0]}, lack a class; LightGBM "
                "numbers the classes of each worker for itself, so give larger or mixed partitions"
            )
        local, weights = dask.compute(eval_set or [], eval_sample_weight or [], scheduler=client)
        whole_sets: dict[str, Any] = {}
        if local:
            whole_sets["eval_X"] = tuple(table for table, _ in local)
            whole_sets["eval_y"] = tuple(numbers_among(classes, labels) for _, labels in local)
            if weights:
                whole_sets["eval_sample_weight"] = list(weights)
        plain = {name: value for name, value in without_nested(parameters).items() if name not in OWN}
        start = None
        if not own.is_cross_entropy:
            plain |= {**BESIDE_AN_OBJECTIVE, "objective": of_labels(own), "metric": "None"}
            eval_metric = metrics_of_scores(eval_metric)
            if starts_from_shares(parameters):
                start = scores_of(initial_score_of_totals(classes, totals))
                arguments["init_score"] = _start_of_partitions(start, y)
                whole_sets["eval_init_score"] = [repeated(start, len(labels)) for _, labels in local]

        def train() -> DaskLGBMClassifier:
            with warnings.catch_warnings():
                if self.n_jobs is None:
                    warnings.filterwarnings("ignore", "Parameter n_jobs will be ignored", UserWarning)
                return DaskLGBMClassifier(**plain)._lgb_dask_fit(
                    model_factory=_WorkersClassifier,
                    X=X,
                    y=y,
                    sample_weight=sample_weight,
                    eval_metric=eval_metric,
                    whole_sets=whole_sets,
                    **arguments,
                )

        fitted = train_again_without_lost_workers(client, train)
        given = self._other_params
        self._lgb_dask_copy_extra_params(source=fitted, dest=self)
        self._other_params = given
        if not own.is_cross_entropy:
            self._objective = "multiclass" if self.n_classes_ > 2 else "binary"  # which predict_proba looks at
            make_plain(self.booster_, self.n_classes_, start)
        return self

    def to_local(self) -> EmphasisLGBMClassifier:
        """Return the fitted model as the estimator of one process."""
        params = {name: value for name, value in self.get_params(deep=False).items() if name != "client"}
        local = EmphasisLGBMClassifier(**params)
        given = local._other_params
        self._lgb_dask_copy_extra_params(source=self, dest=local)
        local._other_params = given
        local.__dict__.pop("client", None)
        return local


def _start_of_partitions(start: FloatArray, y: Any) -> Any:
    """Return the first scores of each example as a dask array, partitioned like y."""
    shape = (float("nan"),) if len(start) == 1 else (float("nan"), len(start))

    def of_part(part: Any) -> FloatArray:
        return repeated(start, len(part))

    parts = [da.from_delayed(delayed(of_part)(part), shape, float) for part in parts_of(y, "y")]
    return da.concatenate(parts, allow_unknown_chunksizes=True)
