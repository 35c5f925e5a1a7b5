"""Fit one's own table: cross-validate, train on all rows, and write model, predictions, figures and report.

The folder of a fit. Every file appears whole or not at all.

    fit.json             what was asked for, and a digest of it and of the data
    folds/K.npz          probabilities of fold K's rows: a fold that is there is not trained again
    model/               what `load_model` reads
    predictions.csv      one line per row, predicted by a model that has not seen it; .parquet for Parquet tables
    metrics.json, report.html
"""

from __future__ import annotations

import hashlib
import json
import shutil
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import emphasis
from emphasis.datasets.archives import read_npz
from emphasis.datasets.errors import DamagedFileError
from emphasis.datasets.table import TableOptions, prepare_table
from emphasis.datasets.table_columns import ColumnOptions
from emphasis.datasets.table_encoder import TableEncoder, fit_encoder
from emphasis.datasets.table_labels import LabelOptions
from emphasis.datasets.table_source import ReadOptions
from emphasis.errors import EmphasisError, EmphasisValueError
from emphasis.extras import missing_extra
from emphasis.files import naming_refusals, replacing, write_text
from emphasis.json_files import JSONFileError, read_json
from emphasis.process import stop_if_asked, stopping_later
from emphasis.tabular.models import Kind, kind_of
from emphasis.tabular.result import BASELINE, FIT, FOLDS, Fit
from emphasis.tabular.saved import FOLDER, save_model
from emphasis.weighting import CCE, Weighting, WeightingLike, as_weighting

try:
    from sklearn.model_selection import StratifiedKFold
except ModuleNotFoundError as error:
    raise missing_extra("emphasis.tabular", "fit", error) from None

_LIBRARIES = ("xgboost", "lightgbm", "catboost", "_catboost", "sklearn")  # which check settings when they fit
Progress = Callable[[str, int, int], None]  # what, done, total


def fit_table(
    path: str | Path,
    *,
    label: str,
    folder: str | Path,
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
    """Cross-validate and train a classifier of a table's label column, and write all of it into `folder`.

    A fit that was stopped goes on when it is asked for again, and ends with the same numbers.

    Args:
        path: A text file with a header, or Parquet (.parquet, .pq).
        label: The label column: texts, booleans or whole numbers. Texts are classes as they are written.
        folder: Where it is written.
        model: "xgboost", "lightgbm", "catboost" or "net".
        weighting: As `emphasis.torch.emphasis_loss` takes it; None for the model's default.
        compare: Whether cross-entropy is cross-validated as well.
        folds: Parts of the rows, each predicted by a model trained on the others; 2 or more.
        seed: Of folds and models.
        settings: The model's own parameters, beside or instead of the default ones.
        drop: Columns to leave out.
        categorical: Columns whose numbers are names.
        missing: What means "missing" in a text file, beside an empty field and the usual NA, NaN, null. Not in the
            label column, where an empty cell alone does.
        max_levels: The most distinct values of a column of categories.
        weight_column: A column of weights >= 0 of the rows.
        sep: What separates the cells of a text file; "" to detect it.
        encoding: Of a text file; "" to detect it.
        decimal: The decimal mark of a text file, "." or ","; "" to detect it.
        keep: Columns to use although they look like row numbers or identifiers.
        id_column: A column that names the rows in predictions and report.
        unlabeled: "drop" rows without a label, or "error".
        rare_classes: What becomes of classes of fewer rows than `folds`: "keep" those of two rows or more, "merge" all
            into one, "drop" them, or "error".
        merge_spellings: Which spellings of a class are one: "form" (blanks around, Unicode form), "case" or "none".
        force: Replace another fit in the folder.
        progress: Called as `progress(what, done, total)`.

    Raises:
        DataNotFoundError, DamagedFileError: The table is not there, or cannot be read.
        ValueError: A column or an option is unfit; the folder holds something else. The message says what to do.
        ModuleNotFoundError: An extra is not installed; the message names it.
    """
    kind = kind_of(model)
    chosen = {**kind.settings, **(settings or {})}
    resolved = kind.weighting if weighting is None else as_weighting(weighting)
    if isinstance(folds, bool) or not isinstance(folds, int) or folds < 2:
        raise EmphasisValueError(f"folds={folds!r} is not allowed; use a whole number >= 2")
    if not 0 <= seed < 2**32:
        raise EmphasisValueError(f"seed={seed} is not allowed; use a whole number, 0 to {2**32 - 1}")
    options = TableOptions(
        ReadOptions(sep, encoding, decimal, missing), LabelOptions(unlabeled, rare_classes, merge_spellings),
        ColumnOptions(categorical, keep, max_levels), drop, id_column, weight_column or "",
    )  # fmt: skip
    prepared = prepare_table(path, label, options, fewest=folds)
    table, given, classes = prepared.frame, prepared.given, prepared.classes
    weights = _weights(table, weight_column)
    features, encoder = prepared.features, prepared.encoder
    request = {
        "table": str(path), "label": label, "model": model, "settings": chosen, "weighting": resolved.to_dict(),
        "compare": compare, "folds": folds, "seed": seed, "drop": list(drop), "categorical": list(categorical),
        "missing": list(missing), "max_levels": max_levels, "weight_column": weight_column, "sep": sep,
        "encoding": encoding, "decimal": decimal, "keep": list(keep), "id_column": id_column, "unlabeled": unlabeled,
        "rare_classes": rare_classes, "merge_spellings": merge_spellings,
        "emphasis": emphasis.__version__,
    }  # fmt: skip
    place = Path(folder)
    with naming_refusals("write to", place):
        digest = _claim(place, request, table, force)

    methods = {repr(resolved): resolved, **({BASELINE: CCE()} if compare and resolved != CCE() else {})}
    fold = np.empty(len(given), dtype=np.int64)
    probabilities = {name: np.empty((len(given), len(classes))) for name in methods}
    splits = _splits(given, folds, seed)
    total, done = folds * len(methods) + 1, 0
    for number, (train, test) in enumerate(splits):
        fold[test] = number
        kept = _kept_fold(place / FOLDS / f"{number}.npz", digest, list(methods), (len(test), len(classes)))
        for name, one in methods.items():
            progress(f"fold {number + 1} of {folds}: {name}", done, total)
            if kept is None:
                own = fit_encoder(table.iloc[train], features, categorical, max_levels, prepared.date_formats)
                rows = own.transform(table.iloc[train])
                classifier = _trained(kind, one, chosen, seed, rows, given[train], weights[train])
                probabilities[name][test] = classifier.predict_proba(own.transform(table.iloc[test]))
            else:
                probabilities[name][test] = kept[name]
            done += 1
        if kept is None:
            with replacing(place / FOLDS / f"{number}.npz") as partial, partial.open("wb") as file:
                arrays = {f"method {at}": probabilities[name][test] for at, name in enumerate(methods)}
                np.savez(file, digest=np.array(digest), **arrays)
    progress("the model, on all rows", done, total)
    final = _trained(kind, resolved, chosen, seed, encoder.transform(table), given, weights)
    with naming_refusals("write to", place):
        save_model(
            place, final, kind=model, settings=chosen, weighting=resolved, label=label, classes=classes, encoder=encoder
        )
    fit = Fit(
        place, request, table, classes, given, fold, probabilities, resolved, encoder, weights,
        _importances(final, encoder), prepared,
    )  # fmt: skip
    from emphasis.tabular.report import write_report

    write_report(fit)
    progress("done", total, total)
    return fit


def _trained(
    kind: Kind, weighting: Weighting, settings: Mapping[str, Any], seed: int, rows: Any, given: NDArray[np.int64],
    weights: NDArray[np.float64],
) -> Any:  # fmt: skip
    """Return a classifier that has learned.

    Raises:
        EmphasisValueError: Its library refuses a setting or the data.
    """
    try:
        classifier = kind.make(weighting, settings, seed)
    except TypeError as error:  # a setting by a name that it does not have
        raise EmphasisValueError(f"--set: {error}") from error
    try:
        with stopping_later():  # XGBoost calls back, and an exception raised there by a signal would abort the process
            classifier.fit(rows, given, sample_weight=weights)
    except EmphasisError:
        raise
    except Exception as error:
        where = traceback.walk_tb(error.__traceback__)
        library = [frame.f_globals.get("__name__", "") for frame, _ in where][-1].partition(".")[0]
        if library not in _LIBRARIES:
            raise
        said = str(error).partition("Stack trace")[0]
        raise EmphasisValueError(f"{library} refuses the settings or the table: {said}") from error
    stop_if_asked()
    return classifier


def _splits(given: NDArray[np.int64], folds: int, seed: int) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Return training and held-out rows of each fold, classes in the same proportion but for rare ones."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        return list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(given, given))


def _weights(table: Any, column: str | None) -> NDArray[np.float64]:
    if column is None:
        return np.ones(len(table))
    try:
        weights: NDArray[np.float64] = table[column].to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise EmphasisValueError(f"the weight column {column!r} does not hold numbers ({error})") from error
    bad = ~(np.isfinite(weights) & (weights >= 0.0))
    if bad.any():
        raise EmphasisValueError(
            f"the weight column {column!r} holds {weights[bad][0]} in {bad.sum()} rows; weights are finite and >= 0"
        )
    return weights


def _claim(folder: Path, request: dict[str, Any], table: Any, force: bool) -> str:
    """Make the folder this fit's, and return the digest of request and data."""
    import pandas as pd

    digest = hashlib.sha256(json.dumps(request, sort_keys=True, default=str).encode())
    digest.update(repr(list(zip(table.columns, map(str, table.dtypes), strict=True))).encode())
    digest.update(pd.util.hash_pandas_object(table.map(repr), index=False).to_numpy().tobytes())
    name = digest.hexdigest()
    if (folder / FIT).is_file():
        try:
            found = read_json(folder / FIT).get("digest")
        except JSONFileError:
            found = None
        if found != name and not force:
            raise EmphasisValueError(
                f"{folder} holds a fit of other settings or other data; choose another folder (--out), or replace it "
                "(--force)"
            )
        if force:
            shutil.rmtree(folder / FOLDS, ignore_errors=True)
            shutil.rmtree(folder / FOLDER, ignore_errors=True)
    elif folder.exists() and any(folder.iterdir()):
        raise EmphasisValueError(f"{folder} is not empty and holds no fit; choose another folder (--out)")
    (folder / FOLDS).mkdir(parents=True, exist_ok=True)
    write_text(folder / FIT, json.dumps({"digest": name, **request}, indent=1, ensure_ascii=False, default=str))
    return name


def _kept_fold(
    path: Path, digest: str, methods: list[str], shape: tuple[int, int]
) -> dict[str, NDArray[np.float64]] | None:
    """Return a finished fold's probabilities; None if it is not there, or damaged: it is then trained anew."""
    try:
        content = read_npz(path)
        found = {name: content[f"method {at}"] for at, name in enumerate(methods)}
        same = str(content["digest"]) == digest
    except (OSError, DamagedFileError, KeyError):
        return None
    return found if same and all(p.shape == shape and p.dtype == np.float64 for p in found.values()) else None


def _importances(classifier: Any, encoder: TableEncoder) -> dict[str, float]:
    """Return each column's share, its encoded columns together; {} if the model has none."""
    values = getattr(classifier, "feature_importances_", None)
    if values is None:
        return {}
    shares = np.asarray(values, np.float64)
    shares = shares / (shares.sum() or 1.0)
    found, start = {}, 0
    for column in encoder.columns:
        stop = start + len(column.feature_names)
        found[column.name], start = float(shares[start:stop].sum()), stop
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))
