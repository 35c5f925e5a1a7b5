"""Cross-validation of classifiers of tables: every row is predicted by a model that was not trained on it."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emphasis.datasets.copies import representatives
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

_VALUES_FOR_THREADS = 200_000
"""Rows times columns from which on boosting uses several threads; below, they would mostly wait for each other."""
_LIBRARIES = (
    "xgboost",
    "lightgbm",
    "catboost",
    "_catboost",
    "sklearn",
    "transformers",
)  # libraries that check settings when they fit
Progress = Callable[[str, int, int], None]  # (task, done, total)


@dataclass(frozen=True, eq=False)
class Data:
    """A training table of N rows.

    Attributes:
        table: The table.
        options: Options with which it was prepared.
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
        """Return the rows `train` and `test` encoded by an encoder that is fitted on `train` only."""
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

    def predict_fold(
        self,
        methods: Mapping[str, Weighting],
        train: Trainer,
        training_rows: NDArray[Any],
        test_rows: NDArray[Any],
    ) -> PredictFold:
        """Return the function that trains a method on the training rows and predicts the others."""
        known, unseen = self.encode(training_rows, test_rows)

        def predict(name: str) -> NDArray[np.float64]:
            targets, weights = self.of_method(name)
            classifier = train(methods[name], known, targets[training_rows], weights[training_rows])
            return np.asarray(classifier.predict_proba(unseen), np.float64)

        return predict


def check_folds(folds: Any) -> None:
    """Raise EmphasisValueError unless `folds` is a number of folds."""
    if isinstance(folds, bool) or not isinstance(folds, int) or folds < 2:
        raise EmphasisValueError(f"folds={folds!r} is not allowed; use a whole number >= 2")


def split_data(data: Data, folds: int, seed: int) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Return training and held-out rows of each fold of a table."""
    return splits(data.table.given, folds, seed, data.table.groups)


def cross_validate(
    data: Data,
    methods: Mapping[str, Weighting],
    train: Trainer,
    folder: Path,
    digest: str,
    folds: int,
    progress: Progress,
) -> tuple[NDArray[np.int64], dict[str, NDArray[np.float64]]]:
    """Predict each row by a model that was not trained on it.

    Args:
        data: The table.
        methods: Weightings by name.
        train: Trains a classifier.
        folder: Folder of the fit; finished folds are read from it.
        digest: Digest of the fit, which identifies its folds.
        folds: Number of folds.
        progress: Called as `progress(task, done, total)`.

    Returns:
        The fold of each row (N,), and each method's probabilities (N, C).
    """
    labels, total = data.table.given, folds * len(methods) + 1

    def start_fold(_number: int, training_rows: NDArray[Any], test_rows: NDArray[Any]) -> PredictFold:
        return data.predict_fold(methods, train, training_rows, test_rows)

    return predict_held_out(
        labels,
        len(data.table.classes),
        list(methods),
        split_data(data, folds, train.seed),
        folder,
        digest,
        start_fold,
        lambda number, place, name: progress(
            f"fold {number + 1} of {folds}: {name}", number * len(methods) + place, total
        ),
    )


PredictFold = Callable[[str], NDArray[np.float64]]
"""Takes the name of a method, and returns its probabilities of the held-out rows, (n, C)."""


def predict_held_out(
    labels: NDArray[np.int64],
    num_classes: int,
    methods: Sequence[str],
    parts: Sequence[tuple[NDArray[Any], NDArray[Any]]],
    folder: Path,
    digest: str,
    start_fold: Callable[[int, NDArray[Any], NDArray[Any]], PredictFold],
    before: Callable[[int, int, str], None] = lambda *_: None,
) -> tuple[NDArray[np.int64], dict[str, NDArray[np.float64]]]:
    """Predict each row by a model that was not trained on it; folds in the folder are read, others are written.

    Args:
        labels: Classes, shape (N,).
        num_classes: Number of classes C.
        methods: Names of the methods.
        parts: Training and held-out rows of each fold.
        folder: Folder of the fit.
        digest: Digest of the fit, which identifies its folds.
        start_fold: Called as `start_fold(number, training_rows, test_rows)` for a fold that is not in the folder;
            returns the function that predicts its held-out rows by a method.
        before: Called as `before(number, place, name)` before predictions of the method at `place` are made or used.

    Returns:
        The fold of each row (N,), and each method's probabilities (N, C).
    """
    fold = np.empty(len(labels), dtype=np.int64)
    probabilities = {name: np.empty((len(labels), num_classes)) for name in methods}
    for number, (training_rows, test_rows) in enumerate(parts):
        fold[test_rows] = number
        stored = read_fold(folder, number, digest, list(methods), (len(test_rows), num_classes))
        predict = stored.__getitem__ if stored else start_fold(number, training_rows, test_rows)
        predicted = {}
        for place, name in enumerate(methods):
            before(number, place, name)
            predicted[name] = probabilities[name][test_rows] = predict(name)
        if not stored:
            write_fold(folder, number, digest, predicted)
    return fold, probabilities


def splits(
    labels: NDArray[np.int64], folds: int, seed: int, groups: NDArray[np.int64] | None = None
) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Return training and held-out rows of each fold, with classes in equal proportions except for rare ones.

    Args:
        labels: Classes, shape (N,).
        folds: Number of folds.
        seed: Seed of the folds.
        groups: Number of each row's group, shape (N,); rows of a group are held out together, as far as every class
            keeps a training row. None if each row is a group.
    """
    if groups is not None:
        rows, group = representatives(groups, labels)
        if len(rows) < len(labels) and np.bincount(labels[rows]).max() >= folds:
            fold = np.empty(len(rows), np.int64)
            for number, (_, held_out) in enumerate(splits(labels[rows], folds, seed)):
                fold[held_out] = number
            parts = [(np.flatnonzero(fold[group] != k), np.flatnonzero(fold[group] == k)) for k in range(folds)]
            classes = len(np.unique(labels))
            if all(len(np.unique(labels[training])) == classes for training, _ in parts):
                return parts
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        return list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(labels, labels))


@dataclass(frozen=True)
class Trainer:
    """Trains classifiers of one kind.

    Attributes:
        spec: Kind of model.
        settings: Parameters of the model.
        seed: Seed of the model.
    """

    spec: ModelSpec
    settings: Mapping[str, Any]
    seed: int

    def __call__(
        self, weighting: Weighting, features: Any, labels: NDArray[np.int64], weights: NDArray[np.float64] | None
    ) -> Any:
        """Return a trained classifier.

        Raises:
            EmphasisValueError: The library rejects a setting or the data.
        """
        is_small = isinstance(features, np.ndarray) and features.size < _VALUES_FOR_THREADS
        threads = {self.spec.threads: 1} if self.spec.threads and is_small else {}
        try:
            classifier = self.spec.make(weighting, {**threads, **self.settings}, self.seed)
        except TypeError as error:  # the model has no setting of this name
            raise EmphasisValueError(f"settings (--set): {error}") from error
        try:
            with stopping_later():  # an exception of a signal handler in a callback of XGBoost would abort the process
                classifier.fit(features, labels, sample_weight=weights)
        except EmphasisError:
            raise
        except Exception as error:
            frames = traceback.walk_tb(error.__traceback__)
            library = [frame.f_globals.get("__name__", "") for frame, _ in frames][-1].partition(".")[0]
            if library not in _LIBRARIES:
                raise
            reason = str(error).partition("Stack trace")[0]
            raise EmphasisValueError(f"{library} rejects the settings or the table: {reason}") from error
        stop_if_asked()
        return classifier


def weights_of(frame: Any, column: str | None) -> NDArray[np.float64]:
    """Return the weights of the rows of a table, shape (N,): those of a column, or 1.

    Raises:
        EmphasisValueError: The column holds other values than finite numbers >= 0.
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
