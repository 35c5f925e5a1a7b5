"""Fit a table in several Parquet files on a Dask cluster, with memory that does not grow with the number of files.

The folder of such a fit holds

fit.json             the settings of the fit, and a digest of them and of the files
folds/K METHOD.ubj   the model that predicts the rows of fold K; existing ones are not trained again
model/               the model that was trained on all rows, read by `load_model`
predictions/FILE     for each file of the table, a line for each of its labeled rows, predicted by a model that was not
                     trained on it
metrics.json
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import emphasis
from emphasis.datasets.table_encoder import TableEncoder
from emphasis.datasets.table_parts import (
    columns_of,
    footer_digest,
)
from emphasis.errors import EmphasisRuntimeError, EmphasisValueError
from emphasis.extras import missing_extra
from emphasis.files import naming_refusals, replacing, write_text
from emphasis.tabular.cross_validation import Progress, Trainer, check_folds
from emphasis.tabular.folder import acquire
from emphasis.tabular.models import XGBOOST
from emphasis.tabular.result import FOLDS, METRICS, methods_of
from emphasis.tabular.saved import SavedModel, load_model, save_model
from emphasis.tabular.streamed_scores import StreamedScores
from emphasis.weighting import DEFAULT_WEIGHTING, Weighting, WeightingLike, as_weighting

try:
    import dask
    import xgboost
    from distributed import Client, LocalCluster, default_client

    from emphasis.boosting.dask import EmphasisDaskXGBClassifier
    from emphasis.tabular.dask_table import DaskTable, TablePart, in_order
except ModuleNotFoundError as error:
    raise missing_extra("emphasis.tabular.on_dask", "dask", error) from None

PREDICTIONS = "predictions"
_NO_WORKERS_SECONDS = 60


@dataclass(frozen=True)
class PartsFit:
    """Result of `fit_parts`.

    Attributes:
        folder: Folder that everything is written to.
        request: Settings of the fit, as in `fit.json`.
        label: Name of the label column.
        classes: Names of the classes.
        rows: Number of rows with a label.
        scores: Scores of each method on held-out rows; see `StreamedScores.result`.
    """

    folder: Path
    request: Mapping[str, Any]
    label: str
    classes: tuple[str, ...]
    rows: int
    scores: Mapping[str, Any]

    @property
    def model(self) -> SavedModel:
        """The model that was trained on all rows, loaded from the folder."""
        return load_model(self.folder)


@contextmanager
def joined_cluster(scheduler: str | None, workers: int | None = None) -> Iterator[Client]:
    """Return a client of a Dask cluster, as a context.

    Args:
        scheduler: Address of its scheduler; None to start a cluster of processes of this machine, which ends with the
            context.
        workers: Number of these processes; None for one per core.

    Raises:
        EmphasisRuntimeError: The scheduler cannot be reached.
    """
    if scheduler is not None:
        try:
            client = Client(scheduler)
        except OSError as error:
            raise EmphasisRuntimeError(f"the Dask scheduler {scheduler} cannot be reached") from error
        with client:
            yield client
        return
    with (
        # Whoever is alone must not wait for lost workers that nothing replaces.
        dask.config.set({"distributed.scheduler.no-workers-timeout": _NO_WORKERS_SECONDS}),
        LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        yield client


def fit_parts(
    files: Sequence[str | Path],
    *,
    label: str,
    folder: str | Path,
    client: Client | None = None,
    weighting: WeightingLike | None = None,
    compare: bool = True,
    folds: int = 5,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    drop: Sequence[str] = (),
    categorical: Sequence[str] = (),
    max_levels: int = 100,
    weight_column: str | None = None,
    force: bool = False,
    progress: Progress = lambda *_: None,
) -> PartsFit:
    """Cross-validate and train XGBoost on a table in several Parquet files, each of which is a partition.

    Columns are used as they are typed in the files: integers and floats are numbers, texts and booleans are categories.
    The model is that of `fit_table` on the same rows, up to the bins of columns with many values, and to the median
    that takes the place of missing numbers, which is a weighted median of the files' medians. Workers must be able to
    read the files under the same paths; only the client writes. A fit that was stopped continues when the same call is
    repeated.

    Args:
        files: Parquet files with the same columns, each small enough for the memory of a worker.
        label: Name of the label column, which holds texts, booleans or whole numbers. Rows without a label are left
            out.
        folder: Folder to write to.
        client: Client of the cluster; None for the present one.
        weighting: Weighting as for `emphasis.boosting.dask.EmphasisDaskXGBClassifier`; None for the default weighting.
        compare: Whether cross-entropy is cross-validated as well.
        folds: Number of folds of the cross-validation, at least 2.
        seed: Seed of the folds and of the models.
        settings: Parameters of XGBoost that replace or complement the default ones of `fit_table`.
        drop: Columns to ignore, such as row numbers and identifiers.
        categorical: Columns of numbers to treat as categories.
        max_levels: Largest number of distinct values of a column of categories.
        weight_column: Column of sample weights >= 0.
        force: Whether to replace another fit in the folder.
        progress: Called as `progress(task, done, total)`.

    Raises:
        DataNotFoundError, DamagedFileError: A file does not exist, or cannot be read.
        ValueError: A column or an argument is not allowed, or the folder holds another fit or other files.
    """
    check_folds(folds)
    paths = [Path(file).absolute() for file in files]
    if repeated := sorted({path.name for path in paths if [other.name for other in paths].count(path.name) > 1}):
        raise EmphasisValueError(f"two files are named {repeated[0]}; predictions are written by these names")
    resolved = DEFAULT_WEIGHTING if weighting is None else as_weighting(weighting)
    columns = columns_of(
        paths, label, drop=drop, categorical=categorical, weight=weight_column or "", max_levels=max_levels
    )
    chosen = {**XGBOOST.settings, **(settings or {})}
    request = {
        "engine": "dask",
        "table": [str(file) for file in files],
        "label": label,
        "model": "xgboost",
        "settings": chosen,
        "weighting": resolved.to_dict(),
        "compare": compare,
        "folds": folds,
        "seed": seed,
        "drop": list(drop),
        "categorical": list(categorical),
        "max_levels": max_levels,
        "weight_column": weight_column,
        "emphasis": emphasis.__version__,
    }
    target = Path(folder)
    with naming_refusals("write to", target):
        acquire(target, request, _footers(paths), force)
        (target / PREDICTIONS).mkdir(exist_ok=True)
    methods = methods_of(resolved, compare)
    total = len(methods) * folds + 3
    progress("reading the files", 0, total)
    cluster = default_client() if client is None else client
    table = DaskTable.summarized(cluster, paths, columns, folds, seed)
    train = Trainer(replace(XGBOOST, make=_make(cluster)), chosen, seed)
    models = {}
    for done, (number, name) in enumerate((number, name) for number in range(folds) for name in methods):
        progress(f"fold {number + 1} of {folds}: {name}", 1 + done, total)
        models[number, name] = _fold_model(target, table, number, list(methods).index(name), train, methods[name])
    progress("out-of-fold predictions", total - 2, total)
    scores = _predict(target, table, models, list(methods))
    write_text(target / METRICS, json.dumps(scores, indent=1, ensure_ascii=False))
    progress("the model, on all rows", total - 1, total)
    with naming_refusals("write to", target):
        save_model(
            target,
            table.trained(train, resolved, None),
            kind="xgboost",
            settings=chosen,
            weighting=resolved,
            label=label,
            classes=table.classes,
            encoder=table.encoder,
            identified=None,
        )
    progress("done", total, total)
    return PartsFit(target, request, label, table.classes, scores["rows"], scores)


def _footers(paths: Sequence[Path]) -> Any:
    import pandas as pd

    return pd.DataFrame({"file": [path.name for path in paths], "footer": [footer_digest(path) for path in paths]})


def _make(client: Client) -> Any:
    def make(weighting: Weighting, settings: Mapping[str, Any], seed: int) -> EmphasisDaskXGBClassifier:
        model = EmphasisDaskXGBClassifier(weighting=weighting, random_state=seed, **settings)
        model.client = client
        return model

    return make


def _fold_model(
    folder: Path, table: DaskTable, number: int, place: int, train: Trainer, weighting: Weighting
) -> bytearray:
    """Return the booster of a fold as bytes, from the folder if it is there."""
    path = folder / FOLDS / f"{number} {place}.ubj"
    if not path.is_file():
        model = table.trained(train, weighting, number)
        with naming_refusals("write to", folder), replacing(path) as partial:
            XGBOOST.save(model, partial)
    return bytearray(path.read_bytes())


def _predict(
    folder: Path, table: DaskTable, models: Mapping[tuple[int, str], bytearray], methods: Sequence[str]
) -> dict[str, Any]:
    """Write the out-of-fold predictions of each file, and return the scores of all."""
    import pyarrow
    import pyarrow.parquet

    scores = StreamedScores(methods, table.classes, table.parts[0].folds)
    # A future of a list, not a list of futures: every worker gets all models once.
    held = table.client.scatter([[dict(models)]], broadcast=True)[0]
    arguments = [(part, table.encoder, held, tuple(methods)) for part in table.parts]
    for part, predicted in zip(table.parts, in_order(table.client, _predict_part, arguments), strict=True):
        rows, codes, fold, weights, probabilities = predicted
        scores.add(codes, probabilities, fold, weights)
        names, p = np.array(table.classes), probabilities[0]
        columns = {
            "row": rows,
            "fold": fold,
            "given": names[codes],
            "predicted": names[p.argmax(1)],
            **{f"p_{name}": p[:, number] for number, name in enumerate(table.classes)},
        }
        with replacing(folder / PREDICTIONS / part.file.name) as partial:
            pyarrow.parquet.write_table(pyarrow.table(columns), partial)
    return scores.result()


def _predict_part(
    part: TablePart, encoder: TableEncoder, held: Sequence[Any], methods: Sequence[str]
) -> tuple[Any, ...]:
    """Return the rows of a file, their classes, folds and weights, and each method's probabilities, float32 (n, C)."""
    table, codes, fold, weights = part.read()
    features = encoder.transform(table)
    (models,) = held
    probabilities = [np.empty((len(codes), len(part.classes)), np.float32) for _ in methods]
    for number in range(part.folds):
        rows = np.flatnonzero(fold == number)
        data = xgboost.DMatrix(features[rows], nthread=1)
        for name, p in zip(methods, probabilities, strict=True):
            booster = xgboost.Booster({"nthread": 1}, model_file=models[number, name])
            values = booster.predict(data)
            p[rows] = np.stack([1.0 - values, values], axis=1) if values.ndim == 1 else values
    return table.index.to_numpy(), codes, fold, weights, probabilities
