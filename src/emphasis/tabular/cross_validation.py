"""Cross-validation of a classifier of tables: every row is predicted by a model that has not seen it."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emphasis.datasets.table import PreparedTable, TableOptions
from emphasis.datasets.table_encoder import fit_encoder
from emphasis.errors import EmphasisError, EmphasisValueError
from emphasis.extras import missing_extra
from emphasis.process import stop_if_asked, stopping_later
from emphasis.tabular.folder import read_fold, write_fold
from emphasis.tabular.models import ModelSpec
from emphasis.tabular.reviewed import AS_GIVEN
from emphasis.weighting import Weighting

try:
    from sklearn.model_selection import StratifiedKFold
except ModuleNotFoundError as error:
    raise missing_extra("emphasis.tabular", "fit", error) from None

_LIBRARIES = ("xgboost", "lightgbm", "catboost", "_catboost", "sklearn")  # which check settings when they fit
Progress = Callable[[str, int, int], None]  # (task, done, total)


@dataclass(frozen=True, eq=False)
class Data:
    """A table of N rows that is learned from.

    Attributes:
        table: The table.
        options: How it was asked for.
        weights: (N,) weights of the rows.
        before: Labels (N,) and weights before a review; None if there was none.
    """

    table: PreparedTable
    options: TableOptions
    weights: NDArray[np.float64]
    before: tuple[NDArray[np.int64], NDArray[np.float64]] | None = None

    def of_method(self, name: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the labels and weights that a method is trained on."""
        return self.before if name == AS_GIVEN and self.before is not None else (self.table.given, self.weights)

    @property
    def used(self) -> Any:
        """The columns that the fit depends on, as a pandas table."""
        options = self.options
        extra = [name for name in (options.id_column, options.weight_column) if name]
        return self.table.frame[[self.table.label, *extra, *self.table.features]]

    def encode(self, train: NDArray[Any], test: NDArray[Any]) -> tuple[Any, Any]:
        """Return the rows `train` and `test` encoded by what is learned from `train` alone."""
        frame, columns = self.table.frame, self.options.columns
        rows = frame.iloc[train]
        encoder = fit_encoder(
            rows,
            self.table.features,
            columns.categorical,
            columns.max_levels,
            self.table.date_formats,
            self.table.texts,
            self.table.learner,
        )
        return encoder.transform(rows), encoder.transform(frame.iloc[test])


def cross_validate(
    data: Data,
    methods: Mapping[str, Weighting],
    train: Trainer,
    folder: Path,
    digest: str,
    folds: int,
    progress: Progress,
) -> tuple[NDArray[np.int64], dict[str, NDArray[np.float64]]]:
    """Predict each row by a model that has not seen it.

    Args:
        data: The table.
        methods: Weightings by name.
        train: Trains a classifier.
        folder: Folder of the fit; its finished folds are read.
        digest: Digest of the fit, by which they are known.
        folds: Number of folds.
        progress: Called as `progress(task, done, total)`.

    Returns:
        The fold of each row (N,), and each method's probabilities (N, C).
    """
    labels, classes = data.table.given, len(data.table.classes)
    fold = np.empty(len(labels), dtype=np.int64)
    probabilities = {name: np.empty((len(labels), classes)) for name in methods}
    for number, (training_rows, test_rows) in enumerate(splits(labels, folds, train.seed)):
        fold[test_rows] = number
        predicted = read_fold(folder, number, digest, list(methods), (len(test_rows), classes))
        encoded = None if predicted else data.encode(training_rows, test_rows)
        predicted = predicted or {}
        for done, (name, weighting) in enumerate(methods.items(), start=number * len(methods)):
            progress(f"fold {number + 1} of {folds}: {name}", done, folds * len(methods) + 1)
            if encoded is not None:
                targets, weights = data.of_method(name)
                classifier = train(weighting, encoded[0], targets[training_rows], weights[training_rows])
                predicted[name] = np.asarray(classifier.predict_proba(encoded[1]), np.float64)
            probabilities[name][test_rows] = predicted[name]
        if encoded is not None:
            write_fold(folder, number, digest, predicted)
    return fold, probabilities


def splits(labels: NDArray[np.int64], folds: int, seed: int) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Return training and held-out rows of each fold, with classes in equal proportions except for rare ones."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        return list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(labels, labels))


@dataclass(frozen=True)
class Trainer:
    """Trains classifiers of one kind.

    Attributes:
        spec: The kind of model.
        settings: Its parameters.
        seed: Its seed.
    """

    spec: ModelSpec
    settings: Mapping[str, Any]
    seed: int

    def __call__(
        self, weighting: Weighting, features: Any, labels: NDArray[np.int64], weights: NDArray[np.float64]
    ) -> Any:
        """Return a trained classifier.

        Raises:
            EmphasisValueError: If its library rejects a setting or the data.
        """
        try:
            classifier = self.spec.make(weighting, self.settings, self.seed)
        except TypeError as error:  # the model has no setting of this name
            raise EmphasisValueError(f"settings (--set): {error}") from error
        try:
            with stopping_later():  # XGBoost calls back, and a signal's exception in a callback would abort the process
                classifier.fit(features, labels, sample_weight=weights)
        except EmphasisError:
            raise
        except Exception as error:
            frames = traceback.walk_tb(error.__traceback__)
            library = [frame.f_globals.get("__name__", "") for frame, _ in frames][-1].partition(".")[0]
            if library not in _LIBRARIES:
                raise
            reason = str(error).partition("Stack trace")[0]
            raise EmphasisValueError(f"{library} refuses the settings or the table: {reason}") from error
        stop_if_asked()
        return classifier


def weights_of(frame: Any, column: str | None) -> NDArray[np.float64]:
    """Return the weights of the rows of a table, shape (N,): those of a column, or 1.

    Raises:
        EmphasisValueError: If the column holds something else than finite numbers >= 0.
    """
    if column is None:
        return np.ones(len(frame))
    try:
        weights: NDArray[np.float64] = frame[column].to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise EmphasisValueError(f"the weight column {column!r} does not hold numbers ({error})") from error
    invalid = ~(np.isfinite(weights) & (weights >= 0.0))
    if invalid.any():
        raise EmphasisValueError(
            f"the weight column {column!r} holds {weights[invalid][0]} in {invalid.sum()} rows; weights are finite "
            "and >= 0"
        )
    return weights
