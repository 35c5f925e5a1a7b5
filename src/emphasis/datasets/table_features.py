"""Encodings of numeric, categorical and date columns, fitted on training rows and applied to any rows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emphasis.datasets.table_dates import parsed
from emphasis.datasets.table_report import counted
from emphasis.errors import EmphasisValueError
from emphasis.texts import shortened

DATE_PARTS = ("year", "month", "day", "weekday", "days since the first")
_SHOWN = 5


@dataclass(frozen=True)
class NumericColumn:
    """A column of numbers, standardized as (x / scale - mean) / deviation.

    Attributes:
        name: Name of the column.
        median: Median, which replaces missing values.
        scale: Largest absolute value. Dividing by it first keeps the sums finite for any unit.
        mean: Mean of x / scale.
        deviation: Standard deviation of x / scale; 1 if the column is constant.
        gaps: Whether a further column marks missing values with a 1, since the training rows have missing values.
    """

    name: str
    median: float
    scale: float
    mean: float
    deviation: float
    gaps: bool

    @property
    def feature_names(self) -> list[str]:
        """Names of the encoded columns."""
        return [self.name, f"{self.name} is missing"] if self.gaps else [self.name]

    def encode(self, column: Any) -> NDArray[np.float64]:
        """Return the encoded rows, (rows, 1 or 2)."""
        values = finite_numbers(column, self.name)
        absent = np.isnan(values)
        with np.errstate(over="ignore"):
            standardized = (np.where(absent, self.median, values) / self.scale - self.mean) / self.deviation
        if np.abs(standardized).max(initial=0.0) > np.finfo(np.float32).max:
            raise EmphasisValueError(
                f"column {self.name!r} reaches {np.nanmax(np.abs(values)):g} outside the training part, beyond what a "
                "float32 holds"
            )
        return np.stack([standardized, absent] if self.gaps else [standardized], axis=1).astype(np.float64)

    def note(self, column: Any) -> str:
        """Return a note about further rows; "" if there is none."""
        if len(column) and column.isna().all():
            return (
                f"the column {self.name!r} is empty in all {counted(len(column), 'row')} of this table; the median of "
                "the training table is used"
            )
        return ""


@dataclass(frozen=True)
class LevelsColumn:
    """A column of categories, one-hot encoded.

    Values that are not levels are encoded as zeros, or by a column of their own if the training rows had such values.

    Attributes:
        name: Name of the column.
        levels: Sorted levels; None for missing values is the last, if the training rows have missing values.
        others: Whether the training rows have values that are not levels, because they are rare.
    """

    name: str
    levels: tuple[str | None, ...]
    others: bool = False

    @property
    def feature_names(self) -> list[str]:
        """Names of the encoded columns."""
        names = [f"{self.name} = {level}" if level is not None else f"{self.name} is missing" for level in self.levels]
        return [*names, f"{self.name} is another value"] if self.others else names

    def encode(self, column: Any) -> NDArray[np.float64]:
        """Return the encoded rows, (rows, levels), with a further column for other values if there were any."""
        one_hot = np.vstack([np.eye(len(self.levels)), np.zeros(len(self.levels))])
        places = self._places(column)
        encoded: NDArray[np.float64] = one_hot[places]
        return np.column_stack([encoded, (places < 0) & column.notna().to_numpy()]) if self.others else encoded

    def unknown(self, column: Any) -> int:
        """Return the number of rows with a value that is not a level."""
        return int((self._places(column) < 0).sum())

    def note(self, column: Any) -> str:
        """Return a note about further rows; "" if there is none."""
        count = self.unknown(column)
        if not count or (self.others and count < len(column)):
            return ""
        if count < len(column):
            return (
                f"the column {self.name!r} holds values in {counted(count, 'row')} that are not in the training table"
            )
        known = shortened([repr(level) for level in self.levels if level is not None], _SHOWN)
        present = "empty" if column.isna().all() else shortened([repr(t) for t in natural_texts(column)[1]], _SHOWN)
        which = f"none of the {len(self.levels):,} most frequent values" if self.others else "no value"
        return (
            f"the column {self.name!r} holds {which} of the training table: {present} in this table, {known} "
            "in the training table"
        )

    def _places(self, column: Any) -> NDArray[np.int64]:
        indices = {level: index for index, level in enumerate(self.levels)}
        known = aliases([level for level in self.levels if level is not None])
        codes, texts = natural_texts(column)
        indices_of_texts = [indices.get(known.get(text, text), -1) for text in texts]
        return np.array([*indices_of_texts, indices.get(None, -1)], dtype=np.int64)[codes]


@dataclass(frozen=True)
class DateColumn:
    """A column of dates: year, month, day, weekday and days since the first training date, each standardized.

    Attributes:
        name: Name of the column.
        format: Format of texts, as accepted by `table_dates.parsed`; "" if dates are not texts.
        first: First training date, in ISO 8601.
        parts: Year, month, day, weekday and days.
        gaps: Whether a further column marks missing dates with a 1, since the training rows have missing dates.
    """

    name: str
    format: str
    first: str
    parts: tuple[NumericColumn, ...]
    gaps: bool

    @property
    def feature_names(self) -> list[str]:
        """Names of the encoded columns."""
        names = [f"{self.name}: {part}" for part in DATE_PARTS]
        return [*names, f"{self.name} is missing"] if self.gaps else names

    def encode(self, column: Any) -> NDArray[np.float64]:
        """Return the encoded rows, (rows, 5 or 6)."""
        dates = as_dates(column, self.name, self.format)
        values = date_parts(dates, self.first)
        blocks = [part.encode(values[part.name])[:, :1] for part in self.parts]
        if self.gaps:
            blocks.append(dates.isna().to_numpy(dtype=np.float64)[:, None])
        return np.concatenate(blocks, axis=1)

    def note(self, column: Any) -> str:
        """Return a note about further rows; "" if there is none."""
        lost = int((as_dates(column, self.name, self.format).isna() & column.notna()).sum())
        if lost:
            return f"the column {self.name!r} holds texts in {counted(lost, 'row')} that are not dates of this format"
        return ""


def as_dates(column: Any, name: str, form: str) -> Any:
    """Return a pandas column of dates without time zones.

    Raises:
        EmphasisValueError: The column holds other values.
    """
    from pandas.api import types

    if types.is_datetime64_any_dtype(column.dtype):
        return column.dt.tz_localize(None) if column.dt.tz is not None else column
    if types.is_numeric_dtype(column.dtype) and column.notna().any():
        raise EmphasisValueError(
            f"the column {name!r} holds dates in the training table, and numbers, such as "
            f"{column[column.notna()].iloc[0]}, in this table"
        )
    dates = parsed(column.astype("object").where(column.notna(), None), form or "ISO8601")
    if column.notna().any() and dates.isna().all():
        raise EmphasisValueError(
            f"the column {name!r} holds dates in the training table, and other texts, such as "
            f"{column[column.notna()].iloc[0]!r}, in this table"
        )
    return dates


def date_parts(dates: Any, first: str) -> Any:
    """Return a pandas table of the parts of dates."""
    import pandas as pd

    values = (
        dates.dt.year,
        dates.dt.month,
        dates.dt.day,
        dates.dt.day_of_week,
        (dates - pd.Timestamp(first)) / pd.Timedelta(days=1),
    )
    return pd.DataFrame({part: value.astype("float64") for part, value in zip(DATE_PARTS, values, strict=True)})


def natural_texts(column: Any) -> tuple[NDArray[np.int64], list[str]]:
    """Return codes of the values of a pandas column, -1 where a value is missing, and the text of each value.

    Texts are unchanged, truth values are True or False, and whole numbers of any type have no decimal point.
    """
    import pandas as pd

    codes, values = pd.factorize(column)
    index: dict[str, int] = {}
    merged = np.array([index.setdefault(text_of(value), len(index)) for value in values] or [0], dtype=np.int64)
    return np.where(codes >= 0, merged[codes], -1), list(index)


def text_of(value: Any) -> str:
    """Return the text of a value; 3.0 is "3", since a column of whole numbers with missing values has floats."""
    is_whole = isinstance(value, (float, np.floating)) and value == np.floor(value)
    return str(int(value) if is_whole and np.isfinite(value) else value)


def aliases(levels: Sequence[str]) -> dict[str, str]:
    """Return other texts that mean one of the levels: 1 and true for True, 1.0 for 1, and vice versa."""
    known = set(levels)
    also: dict[str, str] = {}
    pairs = (("true", "1"), ("false", "0"))
    if {level.casefold() for level in levels} <= {"true", "false"} or known <= {"0", "1", "0.0", "1.0"}:
        for level in levels:
            word, digit = next(pair for pair in pairs if level.casefold() in (pair[0], pair[1], f"{pair[1]}.0"))
            for text in (word, word.upper(), word.capitalize(), digit, f"{digit}.0"):
                also.setdefault(text, level)
    for level in levels:
        if re.fullmatch(r"-?[0-9]{1,300}", level):
            also.setdefault(f"{level}.0", level)
        elif re.fullmatch(r"-?[0-9]{1,300}\.0", level):
            also.setdefault(level[:-2], level)
    return {text: level for text, level in also.items() if text not in known}


def numeric_first(level: str) -> tuple[int, int, str]:
    """Return a sort key that orders 2 before 10, and numbers before texts."""
    digits = level.removeprefix("-")
    is_number = digits.isascii() and digits.isdecimal() and len(digits) < 1000
    return (0, int(level), level) if is_number else (1, 0, level)


def finite_numbers(column: Any, name: str) -> NDArray[np.float64]:
    """Return the numbers of a column, NaN where a number is missing."""
    from pandas.api import types

    try:
        if types.is_datetime64_any_dtype(column.dtype):
            raise TypeError
        values: NDArray[np.float64] = column.to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError):
        kind = "dates" if types.is_datetime64_any_dtype(column.dtype) else "texts"
        odd = next((v for v in column[column.notna()] if not _is_float(v)), "")
        raise EmphasisValueError(
            f"the column {name!r} holds numbers in the training table, and {kind}, such as {str(odd)!r}, in this table"
        ) from None
    if (infinite := np.isinf(values)).any():
        raise EmphasisValueError(
            f"the column {name!r} holds {values[infinite][0]} in {counted(int(infinite.sum()), 'row')}; make it finite "
            "or empty"
        )
    return values


def _is_float(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True
