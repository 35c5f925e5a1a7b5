"""Fit a table: cross-validate, train on all rows, and write model, predictions, figures and report.

The folder of a fit is described in `emphasis.tabular.folder`.
"""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import emphasis
from emphasis.datasets.table import PreparedTable, TableOptions, prepare_table
from emphasis.datasets.table_columns import ColumnOptions
from emphasis.datasets.table_encoder import TableEncoder, fit_encoder
from emphasis.datasets.table_labels import LabelOptions
from emphasis.datasets.table_source import ReadOptions
from emphasis.errors import EmphasisError, EmphasisValueError
from emphasis.extras import missing_extra
from emphasis.files import naming_refusals
from emphasis.process import stop_if_asked, stopping_later
from emphasis.tabular.folder import acquire, default_folder, read_fold, write_fold
from emphasis.tabular.models import ModelSpec, model_spec
from emphasis.tabular.result import BASELINE, Fit
from emphasis.tabular.saved import save_model
from emphasis.weighting import CCE, DEFAULT_WEIGHTING, Weighting, WeightingLike, as_weighting

try:
    from sklearn.model_selection import StratifiedKFold
except ModuleNotFoundError as error:
    raise missing_extra("emphasis.tabular", "fit", error) from None

_LIBRARIES = ("xgboost", "lightgbm", "catboost", "_catboost", "sklearn")  # which check settings when they fit
Progress = Callable[[str, int, int], None]  # (task, done, total)


def fit_table(
    table: str | Path | Any,
    *,
    label: str,
    folder: str | Path | None = None,
    model: str = "xgboost",
    weighting: WeightingLike | None = None,
    compare: bool = True,
    folds: int = 5,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    drop: Sequence[str] = (),
    categorical: Sequence[str] = (),
    missing: Sequence[str] = (),
    max_levels: int = 100,
    weight_column: str | None = None,
    sep: str = "",
    encoding: str = "",
    decimal: str = "",
    keep: Sequence[str] = (),
    id_column: str = "",
    unlabeled: str = "drop",
    rare_classes: str = "keep",
    merge_spellings: str = "form",
    force: bool = False,
    progress: Progress = lambda *_: None,
) -> Fit:
    """Cross-validate and train a classifier that predicts the label column of a table.

    Everything is written to a folder. A fit that was stopped continues when the same call is repeated, and ends with
    the same numbers.

    Args:
        table: A table of pandas, polars, pyarrow or another library, or the path of a text file with a header or of a
            Parquet file (.parquet, .pq).
        label: Name of the label column, which holds texts, booleans or whole numbers. Texts are classes as they are
            written.
        folder: Folder to write to; None for runs/NAME, where NAME is the name of the file, or for a table in memory
            the name of the label column and a digest of the call.
        model: "xgboost", "lightgbm", "catboost" or "net".
        weighting: As for `emphasis.torch.emphasis_loss`; None for the default weighting.
        compare: Whether cross-entropy is cross-validated as well.
        folds: Number of folds of the cross-validation, at least 2.
        seed: Seed of the folds and of the models.
        settings: Parameters of the model that replace or complement the default ones.
        drop: Columns to leave out.
        categorical: Columns whose numbers are names.
        missing: Texts that mean "missing" in a text file, in addition to the empty field and the usual NA, NaN, null.
            Not in the label column, where only an empty cell is missing.
        max_levels: Largest number of distinct values of a column of categories.
        weight_column: Column of sample weights >= 0.
        sep: Separator of the cells of a text file; "" to detect it.
        encoding: Encoding of a text file; "" to detect it.
        decimal: Decimal mark of a text file, "." or ","; "" to detect it.
        keep: Columns to use although they look like row numbers or identifiers.
        id_column: Column that names the rows in predictions and report.
        unlabeled: "drop" rows without a label, or "error".
        rare_classes: What happens to classes of fewer rows than `folds`: "keep" those of two rows or more, "merge" all
            into one, "drop" them, or "error".
        merge_spellings: Which spellings of a class are one: "form" (blanks around, Unicode form), "case" or "none".
        force: Whether another fit in the folder is replaced.
        progress: Called as `progress(task, done, total)`.

    Returns:
        Out-of-fold predictions and what else was found; its attribute `model` predicts other tables.

    Raises:
        DataNotFoundError, DamagedFileError: If the file does not exist, or cannot be read.
        TypeError: If `table` is neither a table nor a path.
        ValueError: If a column or an argument is not allowed, or the folder holds something else.
        ModuleNotFoundError: If an extra is not installed.

    Example:
        >>> result = emphasis.fit(frame, label="churned", folder="runs/churn")  # doctest: +SKIP
        >>> result.model.predict(new_frame)  # doctest: +SKIP
    """
    spec = model_spec(model)
    chosen = {**spec.settings, **(settings or {})}
    resolved = DEFAULT_WEIGHTING if weighting is None else as_weighting(weighting)
    if isinstance(folds, bool) or not isinstance(folds, int) or folds < 2:
        raise EmphasisValueError(f"folds={folds!r} is not allowed; use a whole number >= 2")
    if not 0 <= seed < 2**32:
        raise EmphasisValueError(f"seed={seed} is not allowed; use a whole number, 0 to {2**32 - 1}")
    options = TableOptions(
        ReadOptions(sep, encoding, decimal, missing),
        LabelOptions(unlabeled, rare_classes, merge_spellings),
        ColumnOptions(categorical, keep, max_levels),
        drop,
        id_column,
        weight_column or "",
    )
    prepared = prepare_table(table, label, options, fewest=folds)
    data = _Data(prepared, options, _weights(prepared.frame, weight_column))
    request = {
        "table": str(table) if isinstance(table, (str, Path)) else None,
        "label": label,
        "model": model,
        "settings": chosen,
        "weighting": resolved.to_dict(),
        "compare": compare,
        "folds": folds,
        "seed": seed,
        "drop": list(drop),
        "categorical": list(categorical),
        "missing": list(missing),
        "max_levels": max_levels,
        "weight_column": weight_column,
        "sep": sep,
        "encoding": encoding,
        "decimal": decimal,
        "keep": list(keep),
        "id_column": id_column,
        "unlabeled": unlabeled,
        "rare_classes": rare_classes,
        "merge_spellings": merge_spellings,
        "emphasis": emphasis.__version__,
    }
    target = default_folder(request, data.used) if folder is None else Path(folder)
    with naming_refusals("write to", target):
        digest = acquire(target, request, data.used, force)

    methods = {repr(resolved): resolved, **({BASELINE: CCE()} if compare and resolved != CCE() else {})}
    train = _Trainer(spec, chosen, seed)
    fold, probabilities = _cross_validate(data, methods, train, target, digest, folds, progress)
    total = folds * len(methods) + 1
    progress("the model, on all rows", total - 1, total)
    encoder = prepared.encoder
    features = encoder.transform(prepared.frame)
    final = train(resolved, features, prepared.given, data.weights)
    with naming_refusals("write to", target):
        save_model(
            target,
            final,
            kind=model,
            settings=chosen,
            weighting=resolved,
            label=label,
            classes=prepared.classes,
            encoder=encoder,
            features=features,
        )
    fit = Fit(
        target,
        request,
        prepared.frame,
        prepared.classes,
        prepared.given,
        fold,
        probabilities,
        resolved,
        encoder,
        data.weights,
        _importances(final, encoder),
        prepared,
    )
    from emphasis.tabular.report import write_report

    write_report(fit)
    progress("done", total, total)
    return fit


@dataclass(frozen=True, eq=False)
class _Data:
    """A table of N rows that is learned from, how it was asked for, and the weights of the rows (N,)."""

    table: PreparedTable
    options: TableOptions
    weights: NDArray[np.float64]

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
            rows, self.table.features, columns.categorical, columns.max_levels, self.table.date_formats
        )
        return encoder.transform(rows), encoder.transform(frame.iloc[test])


def _cross_validate(
    data: _Data,
    methods: Mapping[str, Weighting],
    train: _Trainer,
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
    for number, (training_rows, test_rows) in enumerate(_splits(labels, folds, train.seed)):
        fold[test_rows] = number
        predicted = read_fold(folder, number, digest, list(methods), (len(test_rows), classes))
        encoded = None if predicted else data.encode(training_rows, test_rows)
        predicted = predicted or {}
        for done, (name, weighting) in enumerate(methods.items(), start=number * len(methods)):
            progress(f"fold {number + 1} of {folds}: {name}", done, folds * len(methods) + 1)
            if encoded is not None:
                classifier = train(weighting, encoded[0], labels[training_rows], data.weights[training_rows])
                predicted[name] = np.asarray(classifier.predict_proba(encoded[1]), np.float64)
            probabilities[name][test_rows] = predicted[name]
        if encoded is not None:
            write_fold(folder, number, digest, predicted)
    return fold, probabilities


def _splits(labels: NDArray[np.int64], folds: int, seed: int) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Return training and held-out rows of each fold, with classes in equal proportions except for rare ones."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        return list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(labels, labels))


@dataclass(frozen=True)
class _Trainer:
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


def _weights(frame: Any, column: str | None) -> NDArray[np.float64]:
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


def _importances(classifier: Any, encoder: TableEncoder) -> dict[str, float]:
    """Return the importance of each column, that of its encoded columns together; {} if the model has none."""
    values = getattr(classifier, "feature_importances_", None)
    if values is None:
        return {}
    shares = np.asarray(values, np.float64)
    shares = shares / (shares.sum() or 1.0)
    importances, start = {}, 0
    for column in encoder.columns:
        stop = start + len(column.feature_names)
        importances[column.name], start = float(shares[start:stop].sum()), stop
    return dict(sorted(importances.items(), key=lambda pair: -pair[1]))
