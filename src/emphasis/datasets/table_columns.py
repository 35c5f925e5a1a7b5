"""Detection of the kinds of columns, so that row numbers, identifiers and texts are not memorized."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emphasis.datasets.table_report import Finding, argument, counted
from emphasis.texts import shortened, visible

KINDS = ("number", "category", "date", "text", "names", "identifier", "row number", "empty", "constant")
"""Kinds of columns. Only the first four are used as features; columns of other kinds are ignored and reported."""
FEATURES = KINDS[:4]
_LEAST_ROWS = 20  # with fewer rows, distinct values are no evidence
_NEARLY_ALL = 0.95
_VALUE_SHOWN, _SHOWN = 40, 20
_NUMBER = re.compile(r"^[+-]?[0-9]+(?:[.,][0-9]+)?$")
_NAMES, _PROSE = 3.0, 5.0  # words on average, at which distinct texts are names, and above which free text
# Scripts without blanks between words, in which two letters stand for a word: Thai to Khmer, kana, Chinese.
_WORD = re.compile(
    "[\u0e00-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]{2}|[^\\s\u0e00-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]+"
)
_ROW_NUMBER = re.compile(
    r"^(?:id|index|row|row ?(?:number|id|names?)|nr|no|num|number|obs|__index_level_\d+__)\.?$", re.I
)
_UNNAMED = re.compile(r"^(?:|Unnamed: ?\d+|__index_level_\d+__)$")
_OWNERS = (
    "account|case|client|customer|device|doc|document|employee|event|image|img|invoice|item|loan|member|object|order|"
    "passenger|patient|person|policy|product|record|row|sample|session|student|subject|ticket|transaction|u?uid|guid|user"
)
_IDENTIFIER = re.compile(
    rf"(?:^|[^A-Za-z])(?i:id)$|[a-z]I[Dd]$|^(?i:(?:{_OWNERS})[ _-]?(?:id|no|nr|number)|uuid|guid)$"
)


@dataclass(frozen=True)
class ColumnOptions:
    """Options for the columns of features.

    Attributes:
        categorical: Columns to treat as categories, even if their values are numbers.
        keep: Columns to use although they look like row numbers or identifiers.
        max_levels: Largest number of values of a category that are told apart; the others are one level.
        text: Columns of free text, in addition to those that are detected.
    """

    categorical: Sequence[str] = ()
    keep: Sequence[str] = ()
    max_levels: int = 100
    text: Sequence[str] = ()


@dataclass
class Columns:
    """The kinds of the columns of a table.

    Attributes:
        kinds: Kind of each column, in the order of the table.
        findings: Findings about columns that are ignored, and about columns of text.
    """

    kinds: dict[str, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def features(self) -> list[str]:
        """Names of the columns that are used as features."""
        return [name for name, kind in self.kinds.items() if kind in FEATURES]

    @property
    def texts(self) -> list[str]:
        """Names of the columns of free text."""
        return [name for name, kind in self.kinds.items() if kind == "text"]


_CURES = {  # of columns that are ignored, by their kind
    "empty": "",
    "identifier": f" (name the rows by it with {argument('id_column')}, or use it with {argument('keep')})",
    "names": f" (use it with {argument('text')})",
    "row number": f" (use it with {argument('keep')})",
}


def kinds_of(
    table: Any, names: Sequence[str], rows: NDArray[np.int64], options: ColumnOptions, text_use: str = "used as text"
) -> Columns:
    """Return the kinds of columns of a typed pandas table.

    Args:
        table: Table with all its columns, since the first column is treated differently.
        names: Columns to classify.
        rows: (N,) number of each row in the file.
        options: Options for columns.
        text_use: Description of the use of columns of text, for findings.
    """
    columns = Columns()
    for name in names:
        kind, observation = _kind(table[name], name, name == table.columns[0], rows, options)
        columns.kinds[name] = kind
        if kind == "text":
            action = f"{text_use} (leave it out with {argument('drop')})"
            columns.findings.append(Finding(kind, name, len(table), observation, action))
        elif kind not in FEATURES:
            columns.findings.append(Finding(kind, name, len(table), observation, f"ignored{_CURES[kind]}"))
        elif kind == "category" and (levels := _number_of_levels(table[name])) > options.max_levels:
            columns.findings.append(_many_levels(table[name], name, levels, options.max_levels))
    return columns


def constant_columns(table: Any, names: Sequence[str], kept: Sequence[str]) -> dict[str, Finding]:
    """Return a finding for each column that has one value in all rows, without a missing one.

    Args:
        table: pandas table of the rows that are used.
        names: Columns to examine.
        kept: Columns that are used although they are constant.
    """
    constant = {}
    for name in names:
        column = table[name]
        if name not in kept and len(column) > 1 and column.notna().all() and _number_of_levels(column) == 1:
            value = column.iloc[0]
            if not isinstance(value, bytes):
                observation = f"the column {name!r} is {visible(str(value))[:_VALUE_SHOWN]!r} in every row"
                constant[name] = Finding("constant", name, len(column), observation, "ignored")
    return constant


def only_text(texts: list[str], features: list[str]) -> tuple[list[str], list[str]]:
    """Return the columns that an encoder is trained on, the one column of text, and problems if there are several."""
    if len(texts) < 2:
        return texts or features, []
    problem = (
        f"an encoder is trained on one column of text, and {', '.join(map(repr, texts))} hold text; leave out all but "
        f"one with {argument('drop')}"
    )
    return texts, [problem]


def unused_columns(features: Sequence[str], texts: Sequence[str]) -> list[Finding]:
    """Return the finding that names the columns besides the text that an encoder is not trained on, if there are."""
    others = [name for name in features if name not in texts]
    if not others or not texts:
        return []
    is_one = len(others) == 1
    observation = f"the column{'' if is_one else 's'} {shortened([repr(name) for name in others], _SHOWN)}"
    return [
        Finding(
            "not text",
            others[0] if is_one else None,
            len(others),
            f"{observation} hold{'s' if is_one else ''} no text",
            f"ignored, as the encoder is trained on {texts[0]!r} only",
        )
    ]


def _number_of_levels(column: Any) -> int:
    """Return the number of distinct values; 0 for lists and other values that cannot be compared."""
    try:
        return int(column.nunique())
    except TypeError:
        return 0


def _many_levels(column: Any, name: str, levels: int, max_levels: int) -> Finding:
    counts = column.value_counts()
    covered = counts.iloc[:max_levels].sum() / counts.sum()
    observation = f"the column {name!r} has {levels:,} distinct values in {counted(len(column), 'row')}"
    numbers = sum(bool(_NUMBER.match(str(value))) for value in counts.index)
    if numbers > levels / 2:
        observation += f", of which {numbers:,} are numbers (name texts that mean missing with {argument('missing')})"
    action = (
        f"the {max_levels} most frequent, in {100 * covered:.0f} % of the rows, are categories, and the others one "
        f"category ({argument('max_levels')}={max_levels}; leave it out with {argument('drop')})"
    )
    return Finding("many levels", name, len(column), observation, action)


def is_unnamed(name: str) -> bool:
    """Return whether a column has no name, or an automatic name."""
    return bool(_UNNAMED.match(name))


def _kind(column: Any, name: str, first: bool, rows: NDArray[np.int64], options: ColumnOptions) -> tuple[str, str]:
    from pandas.api import types

    if column.isna().all():
        return "empty", f"the column {name!r} is empty"
    if name in options.text:
        return "text", f"the column {name!r} holds {column.nunique():,} different texts"
    if name in options.categorical:
        return "category", ""
    if types.is_datetime64_any_dtype(column.dtype):
        return "date", ""
    numeric = types.is_numeric_dtype(column.dtype) and not types.is_bool_dtype(column.dtype)
    kind = "number" if numeric else "category"
    is_text = not types.is_bool_dtype(column.dtype) and not numeric and _holds_texts(column)
    if name in options.keep:
        kind_of_text = _kind_of_texts(column, name, options.max_levels) if is_text else (kind, "")
        return kind_of_text if kind_of_text[0] == "text" else (kind, "")
    if numeric:
        if first and is_unnamed(name):
            return "row number", f"the first column has no name{'' if not name else f' but {name!r}'}"
        return _kind_of_numbers(column, name, first, rows)
    if not is_text:
        return kind, ""
    if first and is_unnamed(name):
        return "identifier", f"the first column has no name{'' if not name else f' but {name!r}'}"
    return _kind_of_texts(column, name, options.max_levels)


def _kind_of_numbers(column: Any, name: str, first: bool, rows: NDArray[np.int64]) -> tuple[str, str]:
    values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    if not np.isfinite(values).all() or (values != np.floor(values)).any():
        return "number", ""
    if (first and len(values) >= _LEAST_ROWS) or _ROW_NUMBER.match(name) or is_unnamed(name):
        offset = values[0] - rows[0]
        if len(values) > 1 and offset in (0.0, 1.0) and np.array_equal(values, rows + offset):
            return "row number", f"the column {name!r} numbers the rows"
    if len(values) >= _LEAST_ROWS and (_IDENTIFIER.search(name) or _ROW_NUMBER.match(name)):
        distinct = len(np.unique(values))
        if distinct >= _NEARLY_ALL * len(values):
            return "identifier", f"the column {name!r} has {distinct:,} distinct whole numbers in {len(values):,} rows"
    return "number", ""


def _kind_of_texts(column: Any, name: str, max_levels: int) -> tuple[str, str]:
    present = column[column.notna()]
    distinct = present.nunique()
    nearly_all = len(present) >= _LEAST_ROWS and distinct >= _NEARLY_ALL * len(present)
    if distinct > max_levels or (len(present) >= _LEAST_ROWS and distinct >= 0.5 * len(present)):
        words = sum(len(_WORD.findall(text)) for text in present.iloc[:1000].astype(str)) / min(len(present), 1000)
        observation = f"the column {name!r} holds {distinct:,} different texts of several words"
        if words > _PROSE:
            return "text", observation
        if words >= _NAMES:
            return "names", observation
    if nearly_all:
        return "identifier", f"the column {name!r} has {distinct:,} distinct texts in {len(present):,} rows"
    return "category", ""


def _holds_texts(column: Any) -> bool:
    from pandas.api import types

    if isinstance(column.dtype, types.CategoricalDtype if hasattr(types, "CategoricalDtype") else ()):
        column = column.cat.categories.to_series()
    return bool(types.infer_dtype(column, skipna=True) == "string")


def renamed_unnamed(names: Sequence[str]) -> dict[int, str]:
    """Return names for columns without a name, by their positions, such as "column 3" for the third."""
    return {i: f"column {i + 1}" for i, name in enumerate(names) if i and not name}


def repeated(names: Sequence[str]) -> list[str]:
    """Return the names that occur more than once; columns without a name are considered different."""
    counts: Mapping[str, int] = {name: list(names).count(name) for name in names}
    return [name for name, count in counts.items() if count > 1 and name]
