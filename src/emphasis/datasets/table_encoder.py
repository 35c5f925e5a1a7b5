"""A table's columns as numbers: what is learned from the training rows, kept, and applied to any other rows."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emphasis.errors import EmphasisValueError
from emphasis.texts import did_you_mean


@dataclass(frozen=True)
class NumericColumn:
    """A column of numbers, standardised: (x / scale - mean) / deviation.

    Attributes:
        name: The column's.
        median: Stands in where a value is missing.
        scale: The largest size. Dividing by it first keeps the sums finite whatever the unit.
        mean: Of x / scale.
        deviation: Of x / scale; 1 if the column is constant.
        gaps: Whether the training rows miss values, so that a further column says so with a 1.
    """

    name: str
    median: float
    scale: float
    mean: float
    deviation: float
    gaps: bool

    @property
    def feature_names(self) -> list[str]:
        """The names of the columns made of it."""
        return [self.name, f"{self.name} is missing"] if self.gaps else [self.name]

    def encode(self, column: Any) -> NDArray[np.float64]:
        """Return (rows, 1 or 2)."""
        values = _finite(column, self.name)
        absent = np.isnan(values)
        with np.errstate(over="ignore"):
            standardised = (np.where(absent, self.median, values) / self.scale - self.mean) / self.deviation
        if np.abs(standardised).max(initial=0.0) > np.finfo(np.float32).max:
            raise EmphasisValueError(
                f"column {self.name!r} reaches {np.nanmax(np.abs(values)):g} outside the training part, beyond what a "
                "float32 holds"
            )
        return np.stack([standardised, absent] if self.gaps else [standardised], axis=1).astype(np.float64)


@dataclass(frozen=True)
class LevelsColumn:
    """A column of names: one column of 0 and 1 for each level; one that the training rows lack is all zeros.

    Attributes:
        name: The column's.
        levels: Sorted; None, for missing values, last if the training rows miss some.
    """

    name: str
    levels: tuple[str | None, ...]

    @property
    def feature_names(self) -> list[str]:
        """The names of the columns made of it."""
        return [f"{self.name} = {level}" if level is not None else f"{self.name} is missing" for level in self.levels]

    def encode(self, column: Any) -> NDArray[np.float64]:
        """Return (rows, levels)."""
        places = {level: place for place, level in enumerate(self.levels)}
        one_hot = np.vstack([np.eye(len(self.levels)), np.zeros(len(self.levels))])
        encoded: NDArray[np.float64] = one_hot[[places.get(level, -1) for level in _names(column)]]
        return encoded

    def unknown(self, column: Any) -> int:
        """Return how many rows hold a level that the training rows lack."""
        return sum(level not in self.levels for level in _names(column))


@dataclass(frozen=True)
class TableEncoder:
    """Columns as one float32 vector per row.

    Attributes:
        columns: In the order of their places in the vector.
    """

    columns: tuple[NumericColumn | LevelsColumn, ...]

    @property
    def feature_names(self) -> list[str]:
        """What each place of the vector is."""
        return [name for column in self.columns for name in column.feature_names]

    def transform(self, table: Any) -> NDArray[np.float32]:
        """Return (rows, D) of a pandas table; columns beside the encoder's are passed over.

        Raises:
            ValueError: A column is absent, or holds what it cannot be read as.
        """
        if absent := [column.name for column in self.columns if column.name not in table.columns]:
            raise EmphasisValueError(
                f"the table lacks {'the column' if len(absent) == 1 else 'the columns'} "
                f"{', '.join(map(repr, absent))}{did_you_mean(absent[0], table.columns)}"
            )
        blocks = [column.encode(table[column.name]) for column in self.columns]
        return np.ascontiguousarray(np.concatenate(blocks, axis=1), dtype=np.float32)

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON holds and `from_dict` turns back."""
        kinds = {NumericColumn: "numbers", LevelsColumn: "levels"}
        return {"columns": [{"kind": kinds[type(column)], **dataclasses.asdict(column)} for column in self.columns]}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> TableEncoder:
        """Return the encoder of `to_dict`, KeyError, TypeError or ValueError if it is none."""
        columns: list[NumericColumn | LevelsColumn] = []
        for one in content["columns"]:
            values = dict(one)
            if values.pop("kind") == "numbers":
                columns.append(NumericColumn(**values))
                known = all(_is_number(values[key]) for key in ("median", "scale", "mean", "deviation"))
                right = (
                    known and isinstance(values["gaps"], bool) and values["scale"] > 0.0 and values["deviation"] > 0.0
                )
            else:
                columns.append(LevelsColumn(values["name"], tuple(values["levels"])))
                right = all(isinstance(level, str) or level is None for level in values["levels"])
            if not right or not isinstance(values["name"], str):
                raise EmphasisValueError(f"column {values['name']!r} is described as no encoder describes it")
        if not columns or len({column.name for column in columns}) < len(columns):
            raise EmphasisValueError("an encoder needs one column at least, and each once")
        return cls(tuple(columns))


def fit_encoder(table: Any, features: Sequence[str], categorical: Sequence[str], max_levels: int) -> TableEncoder:
    """Return the encoder learned from training rows.

    Args:
        table: The pandas table.
        features: The columns to encode.
        categorical: Numeric ones whose numbers are mere names.
        max_levels: More distinct values than this in a column that is not numeric are an error.

    Raises:
        ValueError: A column is unfit; the message says which and what to do.
    """
    return TableEncoder(
        tuple(
            _fit_numbers(table[name], name)
            if name not in categorical and _is_numeric(table[name], name)
            else _fit_levels(table[name], name, max_levels)
            for name in features
        )
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def text_of(value: Any) -> str:
    """Name a value: 3.0 is "3", because a column of whole numbers becomes one of floats where some are missing."""
    whole = isinstance(value, (float, np.floating)) and value == np.floor(value)
    return str(int(value) if whole and np.isfinite(value) else value)


def numeric_first(level: str) -> tuple[int, int, str]:
    """Order 2 before 10, and numbers before texts."""
    digits = level.removeprefix("-")
    return (0, int(level), "") if digits.isascii() and digits.isdecimal() else (1, 0, level)


def _fit_numbers(column: Any, name: str) -> NumericColumn:
    values = _finite(column, name)
    absent = np.isnan(values)
    if absent.all():
        raise _nothing_but_missing(name)
    median = float(np.median(values[~absent]))
    filled = np.where(absent, median, values)
    scale = float(np.abs(filled).max() or 1.0)
    if filled.min() == filled.max():  # rounding of a mean must not show
        return NumericColumn(name, median, scale, float(filled[0] / scale), 1.0, bool(absent.any()))
    return NumericColumn(
        name, median, scale, float((filled / scale).mean()), float((filled / scale).std()), bool(absent.any())
    )


def _fit_levels(column: Any, name: str, max_levels: int) -> LevelsColumn:
    if column.isna().all():
        raise _nothing_but_missing(name)
    if any(isinstance(value, bytes) or (hasattr(value, "__len__") and not isinstance(value, str)) for value in column):
        raise EmphasisValueError(f"column {name!r} holds lists, bytes or other nested values; leave it out with drop")
    seen = set(_names(column))
    if len(seen) > max_levels:
        raise EmphasisValueError(
            f"column {name!r} has {len(seen)} distinct values in {len(column)} rows, more than max_levels={max_levels}:"
            f" if it is a name or identifier leave it out with drop, if it holds numbers name what is none in missing, "
            f"else raise max_levels"
        )
    levels = sorted((level for level in seen if level is not None), key=numeric_first)
    return LevelsColumn(name, (*levels, None) if None in seen else tuple(levels))


def _names(column: Any) -> list[str | None]:
    return [None if gap else text_of(value) for value, gap in zip(column, column.isna(), strict=True)]


def _finite(column: Any, name: str) -> NDArray[np.float64]:
    """Return a column's numbers, NaN where there is none."""
    try:
        values: NDArray[np.float64] = column.to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise EmphasisValueError(f"column {name!r} holds numbers in one part and not in the other ({error})") from error
    if (infinite := np.isinf(values)).any():
        raise EmphasisValueError(
            f"column {name!r} holds {values[infinite][0]} in {infinite.sum()} rows; make it finite or empty"
        )
    return values


def _is_numeric(column: Any, name: str) -> bool:
    from pandas.api import types

    if types.is_datetime64_any_dtype(column.dtype) or types.is_timedelta64_dtype(column.dtype):
        raise EmphasisValueError(
            f"column {name!r} holds dates or durations; turn it into numbers, or leave it out with drop"
        )
    if types.is_complex_dtype(column.dtype):
        raise EmphasisValueError(f"column {name!r} holds complex numbers; leave it out with drop")
    return bool(types.is_numeric_dtype(column.dtype) and not types.is_bool_dtype(column.dtype))


def _nothing_but_missing(name: str) -> ValueError:
    return EmphasisValueError(
        f"column {name!r} holds nothing but missing values in the training part; leave it out with drop"
    )
