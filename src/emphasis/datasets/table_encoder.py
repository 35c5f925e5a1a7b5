"""Encoder of tables as one vector per row, which is fitted on training rows, saved, and applied to other rows."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emphasis.datasets.table_features import (
    DATE_PARTS,
    DateColumn,
    LevelsColumn,
    NumericColumn,
    as_dates,
    date_parts,
    finite_numbers,
    natural_texts,
    numeric_first,
    text_of,
)
from emphasis.datasets.table_report import TableError, argument
from emphasis.datasets.table_texts import NgramLearner, TextColumn, TextLearner, identities
from emphasis.datasets.text_columns import text_column_from_dict
from emphasis.errors import EmphasisValueError
from emphasis.texts import did_you_mean

__all__ = [
    "Column",
    "DateColumn",
    "LevelsColumn",
    "NumericColumn",
    "TableEncoder",
    "fit_encoder",
    "natural_texts",
    "numeric_first",
    "text_of",
]

Column = NumericColumn | LevelsColumn | DateColumn | TextColumn
_PLAIN = (NumericColumn, LevelsColumn, DateColumn)
_KINDS = {NumericColumn: "numbers", LevelsColumn: "levels", DateColumn: "date"}


@dataclass(frozen=True)
class TableEncoder:
    """Encodes columns as one float32 vector per row.

    Attributes:
        columns: Columns in the order of the vector.
    """

    columns: tuple[Column, ...]

    @property
    def feature_names(self) -> list[str]:
        """Names of the elements of the vector."""
        return [name for column in self.columns for name in column.feature_names]

    def transform(self, table: Any) -> NDArray[np.float32]:
        """Return the vectors (rows, D) of a pandas table; other columns than the encoder's are ignored.

        Raises:
            ValueError: A column is missing, or holds values of another kind.
        """
        if absent := [column.name for column in self.columns if column.name not in table.columns]:
            raise EmphasisValueError(
                f"the table lacks {'the column' if len(absent) == 1 else 'the columns'} "
                f"{', '.join(map(repr, absent))}, with which the model was trained"
                f"{did_you_mean(absent[0], table.columns)}; add {'it' if len(absent) == 1 else 'them'}, or fit again "
                "without"
            )
        blocks, problems = [], []
        for column in self.columns:
            try:
                blocks.append(column.encode(table[column.name]))
            except EmphasisValueError as error:
                problems.append(str(error))
        if problems:
            raise TableError(problems)
        return np.ascontiguousarray(np.concatenate(blocks, axis=1), dtype=np.float32)

    def identify(self, table: Any, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return numbers that identify equal rows: the features returned by `transform`, with hashes instead of texts.

        The last digits of the vector of a text may depend on the machine and on the other texts.
        """
        stops = np.cumsum([len(column.feature_names) for column in self.columns])[:-1]
        blocks = np.split(features, stops, axis=1)
        return np.concatenate(
            [
                block if isinstance(column, _PLAIN) else identities(table[column.name], column.name)
                for column, block in zip(self.columns, blocks, strict=True)
            ],
            axis=1,
            dtype=np.float32,
        )

    def notes(self, table: Any) -> list[str]:
        """Return notes about further rows, such as values that are not in the training rows."""
        return [note for column in self.columns if (note := column.note(table[column.name]))]

    def to_dict(self) -> dict[str, Any]:
        """Return the part of the state that is saved as JSON, for `from_dict`."""
        return {"columns": [_column_to_dict(column) for column in self.columns]}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays of the state, which belong to columns of text."""
        texts = [column for column in self.columns if not isinstance(column, _PLAIN)]
        return {f"{n} {name}": array for n, column in enumerate(texts) for name, array in column.arrays().items()}

    @classmethod
    def from_dict(
        cls, content: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]] | None = None, text_encoder: str = ""
    ) -> TableEncoder:
        """Return a saved encoder; raise KeyError, TypeError or ValueError if the state is invalid.

        Args:
            content: State from `to_dict`.
            arrays: State from `arrays`.
            text_encoder: Present folder of a pretrained encoder of texts; "" if it is unchanged.
        """
        columns: list[Column] = []
        texts = 0
        for described in content["columns"]:
            if described["kind"] in _KINDS.values():
                columns.append(_column_from_dict(dict(described)))
                continue
            prefix, texts = f"{texts} ", texts + 1
            column_arrays = {k.removeprefix(prefix): v for k, v in (arrays or {}).items() if k.startswith(prefix)}
            columns.append(text_column_from_dict(described, column_arrays, text_encoder))
        if not columns or len({column.name for column in columns}) < len(columns):
            raise EmphasisValueError("an encoder needs at least one column, and no column twice")
        return cls(tuple(columns))


def _column_to_dict(column: Column) -> dict[str, Any]:
    if isinstance(column, _PLAIN):
        return {"kind": _KINDS[type(column)], **dataclasses.asdict(column)}
    return column.to_dict()


def _column_from_dict(values: dict[str, Any]) -> Column:
    kind, name = values.pop("kind"), values["name"]
    column: Column
    if kind == "numbers":
        column = NumericColumn(**values)
        known = all(_is_number(values[key]) for key in ("median", "scale", "mean", "deviation"))
        valid = known and isinstance(values["gaps"], bool) and values["scale"] > 0.0 and values["deviation"] > 0.0
    elif kind == "date":
        parts = tuple(_column_from_dict({"kind": "numbers", **part}) for part in values.pop("parts"))
        numeric = tuple(part for part in parts if isinstance(part, NumericColumn))
        column = DateColumn(**values, parts=numeric)
        texts = all(isinstance(values[key], str) for key in ("format", "first"))
        valid = texts and isinstance(values["gaps"], bool) and tuple(part.name for part in numeric) == DATE_PARTS
        as_timestamp(values["first"])
    else:
        column = LevelsColumn(values["name"], tuple(values["levels"]), values.get("others", False))
        valid = all(isinstance(level, str) or level is None for level in values["levels"])
        valid = valid and isinstance(column.others, bool)
    if not valid or not isinstance(name, str):
        raise EmphasisValueError(f"column {name!r} has an invalid description")
    return column


def as_timestamp(text: str) -> Any:
    """Return the date of a text in ISO 8601, or ValueError."""
    import pandas as pd

    return pd.Timestamp(text)


def fit_encoder(
    table: Any,
    features: Sequence[str],
    categorical: Sequence[str],
    max_levels: int,
    formats: Mapping[str, str] | None = None,
    texts: Sequence[str] = (),
    learner: TextLearner | None = None,
) -> TableEncoder:
    """Return an encoder fitted on training rows.

    Args:
        table: pandas table of the training rows.
        features: Columns to encode.
        categorical: Columns whose values are categories even if they are numbers.
        max_levels: Largest number of levels of a column of categories; less frequent values are one level.
        formats: Formats of the columns of dates that were texts, to read further texts.
        texts: Columns of free text, which are the last in the vector.
        learner: Learner of the columns of free text; None for TF-IDF.

    Raises:
        TableError: Columns cannot be used; the message names them and says what to do.
    """
    columns: list[Column] = []
    problems: list[str] = []
    for name in sorted(features, key=lambda name: name in texts):
        column = table[name]
        try:
            if name in texts:
                columns.append((learner or NgramLearner()).fit(column, name))
            elif name not in categorical and _is_date(column):
                columns.append(_fit_dates(column, name, (formats or {}).get(name, "")))
            elif name not in categorical and _is_numeric(column, name):
                columns.append(_fit_numbers(column, name))
            else:
                columns.append(_fit_levels(column, name, max_levels))
        except TableError as error:
            problems += error.problems
        except EmphasisValueError as error:
            problems.append(str(error))
    if problems:
        raise TableError(problems)
    return TableEncoder(tuple(columns))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _fit_numbers(column: Any, name: str) -> NumericColumn:
    values = finite_numbers(column, name)
    absent = np.isnan(values)
    if absent.all():  # such as in the rows of one fold
        return NumericColumn(name, 0.0, 1.0, 0.0, 1.0, True)
    median = float(np.median(values[~absent]))
    filled = np.where(absent, median, values)
    scale = float(np.abs(filled).max() or 1.0)
    if filled.min() == filled.max():  # avoids the rounding error of a mean
        return NumericColumn(name, median, scale, float(filled[0] / scale), 1.0, bool(absent.any()))
    return NumericColumn(
        name, median, scale, float((filled / scale).mean()), float((filled / scale).std()), bool(absent.any())
    )


def _fit_dates(column: Any, name: str, form: str) -> DateColumn:
    dates = as_dates(column, name, form)
    first = "1970-01-01" if dates.isna().all() else dates.min().isoformat()
    parts = date_parts(dates, first)
    fitted = tuple(dataclasses.replace(_fit_numbers(parts[part], part), gaps=False) for part in DATE_PARTS)
    return DateColumn(name, form, first, fitted, bool(dates.isna().any()))


def _fit_levels(column: Any, name: str, max_levels: int) -> LevelsColumn:
    if column.dtype == object and any(_is_nested(value) for value in column):
        raise TableError(
            [f"the column {name!r} holds lists, bytes or other nested values; leave it out with {argument('drop')}"]
        )
    codes, texts = natural_texts(column)
    frequent: Sequence[int] = range(len(texts))
    if len(texts) > max_levels:
        counts = np.bincount(codes[codes >= 0], minlength=len(texts))
        frequent = sorted(frequent, key=lambda code: (-counts[code], numeric_first(texts[code])))[:max_levels]
    levels = sorted((texts[code] for code in frequent), key=numeric_first)
    absent = (None,) if (codes < 0).any() else ()
    return LevelsColumn(name, (*levels, *absent), others=len(texts) > max_levels)


def _is_nested(value: Any) -> bool:
    return isinstance(value, bytes) or (hasattr(value, "__len__") and not isinstance(value, str))


def _is_date(column: Any) -> bool:
    from pandas.api import types

    return bool(types.is_datetime64_any_dtype(column.dtype))


def _is_numeric(column: Any, name: str) -> bool:
    from pandas.api import types

    if types.is_complex_dtype(column.dtype):
        raise TableError([f"the column {name!r} holds complex numbers; leave it out with {argument('drop')}"])
    return bool(types.is_numeric_dtype(column.dtype) and not types.is_bool_dtype(column.dtype))
