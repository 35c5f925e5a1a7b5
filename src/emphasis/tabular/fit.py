"""Fit a table: cross-validate, train on all rows, and write model, predictions, figures and report.

The folder of a fit is described in `emphasis.tabular.folder`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import emphasis
from emphasis.datasets.table import TableOptions, prepare_table
from emphasis.datasets.table_encoder import TableEncoder
from emphasis.datasets.table_report import TableReport
from emphasis.datasets.table_tokens import TokenLearner
from emphasis.errors import EmphasisValueError
from emphasis.executors import LOCAL, ExecutorOptions
from emphasis.files import naming_refusals
from emphasis.review.decisions import Decisions
from emphasis.tabular.calibration import calibrate_held_out
from emphasis.tabular.cross_validation import Data, Progress, Trainer, check_folds, cross_validate, weights_of
from emphasis.tabular.fine_tuned import check_request
from emphasis.tabular.folder import acquire, default_folder
from emphasis.tabular.models import MODELS
from emphasis.tabular.result import Fit, methods_of
from emphasis.tabular.reviewed import AS_GIVEN, apply_decisions
from emphasis.tabular.saved import save_model
from emphasis.weighting import DEFAULT_WEIGHTING, WeightingLike, as_weighting


def fit_table(
    table: str | Path | Any,
    *,
    label: str,
    folder: str | Path | None = None,
    model: str = "xgboost",
    weighting: WeightingLike | None = None,
    compare: bool = True,
    calibrate: bool = True,
    folds: int = 5,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    drop: Sequence[str] = (),
    categorical: Sequence[str] = (),
    missing: Sequence[str] = (),
    max_levels: int = 100,
    weight_column: str | None = None,
    decisions: Decisions | str | Path | None = None,
    sep: str = "",
    encoding: str = "",
    decimal: str = "",
    keep: Sequence[str] = (),
    id_column: str = "",
    unlabeled: str = "drop",
    rare_classes: str = "keep",
    merge_spellings: str = "form",
    missing_labels: Sequence[str] = (),
    text: str | Sequence[str] = (),
    encoder: str | Path = "",
    download: bool = False,
    executor: ExecutorOptions = LOCAL,
    force: bool = False,
    progress: Progress = lambda *_: None,
    on_report: Callable[[TableReport], None] = lambda _: None,
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
        model: "xgboost", "lightgbm", "catboost", "net" or "linear"; or "fine-tuned", which trains the `encoder` on the
            column of text, and ignores other columns.
        weighting: Weighting as for `emphasis.torch.emphasis_loss`; None for the default weighting.
        compare: Whether cross-entropy is cross-validated as well.
        calibrate: Whether probabilities are calibrated on held-out rows if this makes log loss clearly better and
            predictions not clearly worse.
        folds: Number of folds of the cross-validation, at least 2.
        seed: Seed of the folds and of the models.
        settings: Parameters of the model that replace or complement the default ones.
        drop: Columns to ignore.
        categorical: Numeric columns to treat as categories.
        missing: Texts that mean "missing" in a text file, in addition to the empty field and the usual NA, NaN, null.
            Not in the label column, where only an empty cell is missing.
        max_levels: Largest number of categories of a column. Of a column with more values, the most frequent ones are
            categories, and all others are one category.
        weight_column: Column of sample weights >= 0.
        decisions: Decisions of a review of this table (`emphasis.review`), or their file. Corrected labels replace
            the given labels, and reviewed rows get larger weights. The report compares with the given labels.
        sep: Separator of the cells of a text file; "" to detect it.
        encoding: Encoding of a text file; "" to detect it.
        decimal: Decimal mark of a text file, "." or ","; "" to detect it.
        keep: Columns to use although they look like row numbers or identifiers.
        id_column: Column that names the rows in predictions and report.
        unlabeled: "drop" rows without a label, or "error".
        rare_classes: Treatment of classes with fewer rows than `folds`: "keep" those with two rows or more, "merge" all
            into one class, "drop" them, or "error".
        merge_spellings: Differences in spelling that are ignored in class names: "form" (surrounding blanks and Unicode
            form), "case" (upper and lower case as well) or "none".
        missing_labels: Texts that mean that a row has no label, such as "NA", besides the empty cell.
        text: Columns of free text, in addition to those that are detected by their content. Their words and parts of
            words are used as features.
        encoder: Folder of a pretrained encoder of texts, or its name in the local cache of Hugging Face. The vectors
            that it returns for texts are used as features, or it is trained itself (`model="fine-tuned"`).
        download: Whether the encoder may be downloaded from the Hugging Face Hub.
        executor: Where the folds are trained: in this process, or as jobs of a cluster. The model of all rows is
            trained in this process.
        force: Whether to replace another fit in the folder.
        progress: Called as `progress(task, done, total)`.
        on_report: Called with the report on the table (`Fit.prepared.report`) before anything is trained.

    Returns:
        Result with out-of-fold predictions; its attribute `model` predicts other tables.

    Raises:
        DataNotFoundError, DamagedFileError: The file does not exist, or cannot be read.
        TypeError: `table` is neither a table nor a path.
        ValueError: A column or an argument is not allowed, or the folder holds another fit or other files.
        ModuleNotFoundError: A required extra is not installed.

    Examples:
        >>> from sklearn.datasets import load_iris
        >>> from emphasis.tabular import fit_table, load_model
        >>> frame = load_iris(as_frame=True).frame
        >>> result = fit_table(frame, label="target", folder="runs/flowers", folds=2, settings={"n_estimators": 5})
        >>> load_model("runs/flowers").predict_proba(frame.drop(columns="target")).shape
        (150, 3)
    """
    spec = MODELS.find(model)
    chosen = {**spec.settings, **(settings or {})}
    if spec.trains_encoder:
        check_request(chosen, str(encoder))
    resolved = DEFAULT_WEIGHTING if weighting is None else as_weighting(weighting)
    check_folds(folds)
    if not 0 <= seed < 2**32:
        raise EmphasisValueError(f"seed={seed} is not allowed; use a whole number, 0 to {2**32 - 1}")
    texts = [text] if isinstance(text, str) else list(text)
    options = TableOptions.of(
        sep=sep,
        encoding=encoding,
        decimal=decimal,
        missing=missing,
        unlabeled=unlabeled,
        rare_classes=rare_classes,
        merge_spellings=merge_spellings,
        missing_labels=missing_labels,
        categorical=categorical,
        keep=keep,
        max_levels=max_levels,
        text=texts,
        encoder=str(encoder),
        download=download,
        max_tokens=chosen["max_tokens"] if spec.trains_encoder else 0,
        drop=drop,
        id_column=id_column,
        weight_column=weight_column or "",
    )
    prepared = prepare_table(table, label, options, fewest=folds, progress=progress)
    on_report(prepared.report)
    weights = weights_of(prepared.frame, weight_column)
    data = Data(prepared, options, weights)
    reviewed = None if decisions is None else apply_decisions(prepared, decisions)
    if reviewed is not None:
        prepared = reviewed.table
        data = Data(prepared, options, weights * reviewed.trust, (reviewed.before, weights))
    request = {
        "table": str(table) if isinstance(table, (str, Path)) else None,
        "label": label,
        "model": model,
        "settings": chosen,
        "weighting": resolved.to_dict(),
        "compare": compare,
        "calibrate": calibrate,
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
        "missing_labels": list(missing_labels),
        "text": texts,
        "encoder": str(encoder),
        "encoder_sha256": prepared.learner.digest,
        "emphasis": emphasis.__version__,
        **({} if reviewed is None else {"decisions": reviewed.digest, "reviewed": reviewed.finding}),
    }
    target = default_folder(request, data.used) if folder is None else Path(folder)
    with naming_refusals("write to", target):
        digest = acquire(target, request, data.used, force)

    methods = methods_of(resolved, compare)
    if reviewed is not None:
        methods[AS_GIVEN] = resolved
    train = Trainer(spec, chosen, seed)
    if isinstance(prepared.learner, TokenLearner):
        encoder_settings = {"encoder": str(prepared.learner.encoder.folder), "classes": prepared.classes}
        train = replace(train, settings={**chosen, **encoder_settings})
    if not executor.is_local:
        from emphasis.tabular.fold_jobs import train_folds

        train_folds(data, methods, train, target, digest, folds, executor, progress)
    if spec.trains_encoder:  # the folds are trained, or read, in this process
        steps = _Steps(progress)
        progress, train = steps, replace(train, settings={**train.settings, "on_step": steps.step})
    fold, probabilities = cross_validate(data, methods, train, target, digest, folds, progress)
    calibrations = {}
    if calibrate:
        for name, p in probabilities.items():
            probabilities[name], calibrations[name] = calibrate_held_out(prepared.given, p, weights, fold)
    total = folds * len(methods) + 1
    progress("the model, on all rows", total - 1, total)
    table_encoder = prepared.encoder
    features = table_encoder.transform(prepared.frame)
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
            encoder=table_encoder,
            missing_labels=missing_labels,
            identified=table_encoder.identify(prepared.frame, features),
            calibration=calibrations.get(repr(resolved)),
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
        table_encoder,
        weights,  # trust is used in training only
        _importances(final, table_encoder),
        prepared,
        {name: fitted.method for name, fitted in calibrations.items() if fitted is not None},
    )
    from emphasis.tabular.report import write_report  # imports plotting, which is slow

    write_report(fit)
    progress("done", total, total)
    return fit


class _Steps:
    """A function of progress that also shows the step of the training that it was last called for."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._last = progress, ("", 0, 0)

    def __call__(self, task: str, done: int, total: int) -> None:
        self._last = task, done, total
        self._progress(task, done, total)

    def step(self, step: int, steps: int) -> None:
        """Show that `step` of the `steps` of a training are done."""
        task, done, total = self._last
        self._progress(f"{task}, step {step:,} of {steps:,}", done, total)


def _importances(classifier: Any, encoder: TableEncoder) -> dict[str, float]:
    """Return the importance of each column, summed over its encoded columns; {} if the model has no importances."""
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
