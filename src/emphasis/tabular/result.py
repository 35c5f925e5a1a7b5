"""The result of a fit, and the names of its files."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emphasis.comparison import evaluate
from emphasis.datasets.table import PreparedTable, is_parquet
from emphasis.datasets.table_encoder import TableEncoder
from emphasis.tabular.saved import SavedModel, load_model
from emphasis.weighting import CCE, Weighting

FIT, FOLDS, METRICS, REPORT, TABLE = "fit.json", "folds", "metrics.json", "report.html", "table.json"
BASELINE = "cross-entropy"


def methods_of(weighting: Weighting, compare: bool) -> dict[str, Weighting]:
    """Return the weightings of a fit by name: the given one and, to `compare`, cross-entropy if it is another."""
    baseline = {BASELINE: CCE()} if compare and weighting != CCE() else {}
    return {repr(weighting): weighting, **baseline}


@dataclass(frozen=True, eq=False)
class Fit:
    """Result of a fit of N rows and C classes.

    Attributes:
        folder: Folder that everything is written to.
        request: Settings of the fit, as in `fit.json`.
        table: The pandas table.
        classes: Names of the C classes.
        given: Given class of each row, shape (N,).
        fold: Fold in which each row was held out, shape (N,).
        probabilities: Out-of-fold probabilities of shape (N, C) of each method: the weighting, and cross-entropy.
        weighting: Weighting that the model was trained with.
        encoder: Encoder of the model that was trained on all rows.
        importances: Importance of each column, with sum 1; {} for a net.
        weights: Weight of each row, shape (N,).
        prepared: Information about the table: numbers of the rows in the file, their ids, and observations.
        calibration: Calibration of each method whose probabilities were calibrated, "sigmoid" or "isotonic".
    """

    folder: Path
    request: dict[str, Any]
    table: Any
    classes: tuple[str, ...]
    given: NDArray[np.int64]
    fold: NDArray[np.int64]
    probabilities: dict[str, NDArray[np.float64]]
    weighting: Weighting
    encoder: TableEncoder
    weights: NDArray[np.float64]
    importances: dict[str, float] = field(default_factory=dict)
    prepared: PreparedTable | None = None
    calibration: dict[str, str] = field(default_factory=dict)

    @cached_property
    def model(self) -> SavedModel:
        """The model that was trained on all rows, loaded from the folder."""
        return load_model(self.folder)

    @cached_property
    def scores(self) -> dict[str, Any]:
        """Scores of each method on held-out rows, with the given labels and the weights; see `evaluate`."""
        return evaluate(
            self.given, self.probabilities, self.classes, baseline=BASELINE, weights=self.weights, fold=self.fold
        )

    @property
    def source(self) -> str:
        """Name of the table's file, or "a table in memory"."""
        return "a table in memory" if self.request["table"] is None else Path(self.request["table"]).name

    @property
    def rows(self) -> NDArray[np.int64]:
        """Number of each row in the file, shape (N,)."""
        return np.arange(len(self.given)) if self.prepared is None else self.prepared.rows

    @property
    def ids(self) -> tuple[str, ...]:
        """Names of the N rows; () if there are none."""
        return () if self.prepared is None else self.prepared.ids

    @property
    def predictions_name(self) -> str:
        """Name of the file of predictions, which has the format of the table."""
        parquet = self.request["table"] is not None and is_parquet(Path(self.request["table"]))
        return "predictions.parquet" if parquet else "predictions.csv"
