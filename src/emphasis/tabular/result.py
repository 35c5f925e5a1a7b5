"""What a fit has found, and the names of the files that hold it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emphasis.datasets.table import PreparedTable, is_parquet
from emphasis.datasets.table_encoder import TableEncoder
from emphasis.weighting import Weighting

FIT, FOLDS, METRICS, REPORT = "fit.json", "folds", "metrics.json", "report.html"
BASELINE = "cross-entropy"


@dataclass(frozen=True, eq=False)
class Fit:
    """What a fit has found; N rows, C classes, M methods (the weighting, and cross-entropy to compare with).

    Attributes:
        folder: Where it is written.
        request: What was asked for, as `fit.json` says it.
        table: The pandas table.
        classes: The classes' names.
        given: (N,) each row's class.
        fold: (N,) the fold in which the row was held out.
        probabilities: For each method, (N, C) out-of-fold probabilities.
        weighting: The one that the model has learned with.
        encoder: Of the final model.
        importances: How much the model uses each column, adding up to 1; {} for a net.
        weights: (N,) of the rows.
        prepared: How the table was read: the rows' numbers in the file, their ids, and what was odd.
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

    @property
    def rows(self) -> NDArray[np.int64]:
        """(N,) the number of each row in the file."""
        return np.arange(len(self.given)) if self.prepared is None else self.prepared.rows

    @property
    def ids(self) -> tuple[str, ...]:
        """N texts that name the rows; () if there are none."""
        return () if self.prepared is None else self.prepared.ids

    @property
    def predictions_name(self) -> str:
        """The name of the predictions' file: of the table's own kind."""
        return "predictions.parquet" if is_parquet(Path(self.request["table"])) else "predictions.csv"
