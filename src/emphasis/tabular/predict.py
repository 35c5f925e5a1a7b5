"""Predictions of a saved model for a table of further rows, with notes about the table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emphasis.datasets.table import read_like
from emphasis.datasets.table_features import aliases, natural_texts
from emphasis.datasets.table_report import TableError, counted
from emphasis.datasets.table_source import ReadOptions
from emphasis.tabular.saved import SavedModel
from emphasis.texts import did_you_mean


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions for the N rows of a table.

    Attributes:
        frame: pandas table of the predictions: row in the file, id if there is one, predicted class, and the
            probability of each class.
        notes: Observations about the table, with arguments marked by `table_report.argument`.
        labeled: Rows that have a label, shape (N,).
        correct: Whether the prediction is the label, shape (N,); False where there is none.
        trained: Rows that the model was trained on, shape (N,); None if this is not known.
    """

    frame: Any
    notes: tuple[str, ...]
    labeled: NDArray[np.bool_]
    correct: NDArray[np.bool_]
    trained: NDArray[np.bool_] | None

    def accuracy_lines(self, source: str) -> list[str]:
        """Return sentences about the accuracy; none if no row has a label.

        Args:
            source: Source of the labels, such as "the column 'churned'".
        """
        if not self.labeled.any():
            return []
        by = f"accuracy by {source}"
        if self.trained is None:
            text = f"{by}: {self._accuracy(self.labeled)}"
            return [f"{text}; it is not known whether the model was trained on these rows"]
        new, old = self.labeled & ~self.trained, self.labeled & self.trained
        lines = [f"{by}: {self._accuracy(new)}"] if new.any() else []
        if old.any():
            which = "all rows with a label are" if not new.any() else f"{counted(int(old.sum()), 'further row')} equal"
            lines.append(
                f"note: {which} rows that the model was trained on, whose accuracy says nothing about new rows: "
                f"{self._accuracy(old)}"
            )
        return lines

    def _accuracy(self, rows: NDArray[np.bool_]) -> str:
        return f"{self.correct[rows].mean():.4f} (n = {rows.sum()})"


def predict_table(
    model: SavedModel, source: Any, options: ReadOptions | None = None, *, id_column: str = ""
) -> Predictions:
    """Return a model's predictions for a table.

    Args:
        model: Trained model.
        source: Path or table in memory, as accepted by `emphasis.datasets.table_source.open_table`.
        options: Options for reading the table.
        id_column: Column that names the rows.

    Raises:
        DataError: The table or the model cannot be read.
        TableError: Columns are missing, or of another kind than in the training table.
    """
    import pandas as pd

    table = read_like(source, model.encoder, options, as_text=[name for name in (model.label, id_column) if name])
    if id_column and id_column not in table.frame.columns:
        raise TableError(
            [f"{table.name} has no column {id_column!r}{did_you_mean(id_column, list(table.frame.columns))}"]
        )
    if not len(table.frame):
        raise TableError([f"{table.name} has no rows"])
    features = model.encoder.transform(table.frame)
    p = model.predict_features(features)
    predicted = np.array(model.classes)[p.argmax(1)]
    columns: dict[str, Any] = {"row": table.rows}
    if id_column:
        codes, texts = natural_texts(table.frame[id_column])
        columns["id"] = ["" if code < 0 else texts[code] for code in codes]
    columns["predicted"] = predicted
    probabilities = {f"p_{name}": p[:, index] for index, name in enumerate(model.classes)}
    labels = _labels(table.frame, model)
    labeled = labels != ""
    return Predictions(
        pd.DataFrame(columns | probabilities),
        (*(finding.text for finding in table.findings), *model.encoder.notes(table.frame)),
        labeled,
        labeled & (labels == predicted),
        model.was_trained_on(model.encoder.identify(table.frame, features)),
    )


def _labels(frame: Any, model: SavedModel) -> NDArray[Any]:
    """Return the label of each row in the model's spelling, "" where there is none."""
    if model.label not in frame.columns:
        return np.full(len(frame), "")
    codes, texts = natural_texts(frame[model.label])
    also = aliases(model.classes)
    known = set(model.classes)
    names = []
    for text in texts:
        short = text if text in known else text.strip()
        name = short if short in known else also.get(short, short)
        names.append("" if name in model.missing_labels else name)
    labels: NDArray[Any] = np.array([*names, ""], dtype=object)[codes]
    return labels
