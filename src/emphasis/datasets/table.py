"""Any table, CSV or Parquet, with a label column: numbers and categories become one float vector per row."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emphasis.datasets.download import Progress
from emphasis.datasets.errors import DamagedFileError, DataNotFoundError
from emphasis.datasets.split import Split, draw_stratified
from emphasis.weighting import did_you_mean

_PARQUET = (".parquet", ".pq")


def load_table(
    root: Path,
    _progress: Progress,
    *,
    file: str,
    label: str,
    test_file: str | None = None,
    test_share: float = 0.2,
    seed: int = 0,
    categorical: Sequence[str] = (),
    drop: Sequence[str] = (),
    missing: Sequence[str] = (),
    max_levels: int = 100,
) -> Split:
    """Return a table's rows as vectors (N, D) float32 and its label column as classes.

    A numeric column is standardised, (x - mean) / deviation, by the training part's statistics; where a value is
    missing, the training part's median stands in, and a further column says so with a 1, provided the training part
    misses some too. Any other column (text, boolean, category) becomes one column of 0 and 1 per level that the
    training part has, a missing value being a level of its own; a level that only the test part has is all zeros.
    Columns are in the order of the table's, rows too. Classes are numbered in the order of the label's sorted values.

    Args:
        root: The data folder.
        file: The table, relative to `root` or absolute; Parquet by its suffix (.parquet, .pq), else CSV with a header.
        label: The label column: texts, booleans or whole numbers.
        test_file: A second table with the same columns as the test part; what else it has is passed over.
        test_share: Without it, the share of each class that becomes the test part, in (0, 1).
        seed: Of that choice.
        categorical: Numeric columns whose numbers are mere names.
        drop: Columns to leave out.
        missing: What means "missing" in a CSV file besides an empty field and pandas' own NA, NaN, None, null and the
            like: "?", for instance.
        max_levels: More distinct values than this in a column that is not numeric are an error: it may be a name
            or an identifier, from which nothing general is learned.

    Raises:
        DataNotFoundError: There is no such file.
        DamagedFileError: It cannot be read.
        ValueError: An option or a column is unfit; the message says which and what to do.
    """
    if not 0.0 < test_share < 1.0:
        raise ValueError(f"test_share={test_share} is not allowed; use a number between 0 and 1")
    table = _read(root / file, missing)
    for name in (label, *categorical, *drop):
        _require_column(table, name, root / file)
    if label in drop:
        raise ValueError(f"the label column {label!r} cannot be dropped")
    whole, names = _classes(table[label], label, max_levels)
    if test_file is None:
        is_test = np.zeros(len(table), dtype=bool)
        is_test[draw_stratified(whole, max(round(test_share * len(table)), 1), seed)] = True
        train, test = table[~is_test], table[is_test]
        train_labels, test_labels = whole[~is_test], whole[is_test]
    else:
        train, test = table, _read(root / test_file, missing)
        for name in table.columns.difference(list(drop)):
            _require_column(test, name, root / test_file)
        train_labels, test_labels = whole, _known_classes(test[label], names, root / test_file, label)
    features = [name for name in table.columns if name != label and name not in drop]
    if not features:
        raise ValueError(f"{root / file} has no column besides the label {label!r} to learn from")
    blocks = []
    for name in features:
        pair = (train[name], test[name])
        numeric = name not in categorical and _is_numeric(pair[0], name)
        blocks.append(_numbers(*pair, name) if numeric else _levels(*pair, name, max_levels))
    inputs = [
        np.ascontiguousarray(np.concatenate(block, axis=1), dtype=np.float32) for block in zip(*blocks, strict=True)
    ]
    return Split(inputs[0], train_labels, inputs[1], test_labels, len(names), names)


def _read(path: Path, missing: Sequence[str]) -> Any:
    import pandas as pd

    if not path.is_file():
        raise DataNotFoundError(f"table {str(path)!r} does not exist; name it with the option 'file'")
    try:
        if path.suffix.lower() in _PARQUET:
            table = pd.read_parquet(path)
        else:
            table = pd.read_csv(path, na_values=list(missing), skipinitialspace=True, low_memory=False)
    except (OSError, ValueError) as error:  # pandas' and pyarrow's own errors are ValueErrors
        raise DamagedFileError(f"table {str(path)!r} cannot be read ({error})") from error
    table.columns = [str(name) for name in table.columns]
    if twice := table.columns[table.columns.duplicated()].tolist():
        raise ValueError(f"{path} has two columns {twice[0]!r}; rename one")
    if not len(table):
        raise ValueError(f"{path} has no rows")
    return table


def _require_column(table: Any, name: str, path: Path) -> None:
    if name not in table.columns:
        raise ValueError(f"{path} has no column {name!r}{did_you_mean(name, table.columns)}; it has {_listed(table)}")


def _listed(table: Any, most: int = 20) -> str:
    names = [repr(name) for name in table.columns[:most]]
    return ", ".join(names) + (f" and {len(table.columns) - most} more" if len(table.columns) > most else "")


def _classes(column: Any, label: str, max_levels: int) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return each row's class and the classes' names."""
    texts = _label_texts(column, label)
    levels = sorted(set(texts), key=_numeric_first)
    if len(levels) < 2:
        raise ValueError(f"the label column {label!r} is {levels[0]!r} in every row; classification needs 2 classes")
    if len(levels) > max_levels:
        raise ValueError(
            f"the label column {label!r} has {len(levels)} distinct values in {len(texts)} rows, more than "
            f"max_levels={max_levels}; name another column, or raise max_levels"
        )
    code = {level: place for place, level in enumerate(levels)}
    return np.array([code[text] for text in texts], dtype=np.int64), tuple(levels)


def _known_classes(column: Any, names: tuple[str, ...], path: Path, label: str) -> NDArray[np.int64]:
    code = {level: place for place, level in enumerate(names)}
    texts = _label_texts(column, label)
    if strange := [text for text in texts if text not in code]:
        raise ValueError(f"{path} has the label {strange[0]!r}, which the training table lacks")
    return np.array([code[text] for text in texts], dtype=np.int64)


def _label_texts(column: Any, label: str) -> list[str]:
    import pandas as pd

    if absent := int(column.isna().sum()):
        raise ValueError(f"the label column {label!r} is empty in {absent} of {len(column)} rows; fill or remove them")
    if pd.api.types.is_float_dtype(column.dtype):
        values = column.to_numpy(dtype=np.float64)
        if (broken := values[values != np.floor(values)]).size or np.isinf(values).any():
            example = broken[0] if broken.size else np.inf
            raise ValueError(f"the label column {label!r} holds {example:g}: classes are texts or whole numbers")
        return [str(int(value)) for value in values]
    return [_text(value) for value in column]


def _text(value: Any) -> str:
    """Name a value: 3.0 is "3", because a column of whole numbers becomes one of floats where some are missing."""
    whole = isinstance(value, (float, np.floating)) and value == np.floor(value)
    return str(int(value) if whole and np.isfinite(value) else value)


def _numeric_first(level: str) -> tuple[int, int, str]:
    """Order 2 before 10, and numbers before texts."""
    digits = level.removeprefix("-")
    return (0, int(level), "") if digits.isascii() and digits.isdecimal() else (1, 0, level)


def _is_numeric(column: Any, name: str) -> bool:
    from pandas.api import types

    if types.is_datetime64_any_dtype(column.dtype) or types.is_timedelta64_dtype(column.dtype):
        raise ValueError(f"column {name!r} holds dates or durations; turn it into numbers, or leave it out with drop")
    if types.is_complex_dtype(column.dtype):
        raise ValueError(f"column {name!r} holds complex numbers; leave it out with drop")
    return bool(types.is_numeric_dtype(column.dtype) and not types.is_bool_dtype(column.dtype))


def _numbers(train: Any, test: Any, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (rows, 1 or 2) for each part: standardised values, and whether they are missing."""
    values = []
    for column in (train, test):
        try:
            values.append(column.to_numpy(dtype=np.float64, na_value=np.nan))
        except (TypeError, ValueError) as error:
            raise ValueError(f"column {name!r} holds numbers in one part and not in the other ({error})") from error
    for column in values:
        if (infinite := np.isinf(column)).any():
            raise ValueError(
                f"column {name!r} holds {column[infinite][0]} in {infinite.sum()} rows; make it finite or empty"
            )
    absent = [np.isnan(column) for column in values]
    if absent[0].all():
        raise _nothing_but_missing(name)
    median = np.median(values[0][~absent[0]])
    filled = [np.where(gap, median, column) for gap, column in zip(absent, values, strict=True)]
    # Dividing by the largest first keeps the sums finite whatever the unit.
    scale = np.abs(filled[0]).max() or 1.0
    mean, deviation = (filled[0] / scale).mean(), (filled[0] / scale).std()
    constant = filled[0].min() == filled[0].max()
    with np.errstate(over="ignore"):
        standardised = [(column / scale - mean) / (1.0 if constant else deviation) for column in filled]
    if constant:  # rounding of the mean must not show
        standardised[0][:] = 0.0
    if np.abs(standardised[1]).max(initial=0.0) > np.finfo(np.float32).max:
        raise ValueError(
            f"column {name!r} reaches {np.abs(filled[1]).max():g} in the test part, beyond what a float32 holds"
        )
    columns = [standardised, absent] if absent[0].any() else [standardised]
    first, second = (np.stack([part[place] for part in columns], axis=1).astype(np.float64) for place in (0, 1))
    return first, second


def _levels(train: Any, test: Any, name: str, max_levels: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (rows, levels) for each part: 1 in the column of the row's level, that of missing values last."""
    if train.isna().all():
        raise _nothing_but_missing(name)
    parts = [[None if gap else _text(v) for v, gap in zip(part, part.isna(), strict=True)] for part in (train, test)]
    seen = set(parts[0])
    if len(seen) > max_levels:
        raise ValueError(
            f"column {name!r} has {len(seen)} distinct values in {len(train)} rows, more than max_levels={max_levels}: "
            f"if it is a name or identifier leave it out with drop, if it holds numbers name what is none in missing, "
            f"else raise max_levels"
        )
    levels = [*sorted(seen - {None}, key=lambda level: _numeric_first(str(level))), *({None} & seen)]
    places = {level: place for place, level in enumerate(levels)}
    one_hot = np.vstack([np.eye(len(levels)), np.zeros(len(levels))])
    first, second = (one_hot[[places.get(level, -1) for level in part]] for part in parts)
    return first, second


def _nothing_but_missing(name: str) -> ValueError:
    return ValueError(f"column {name!r} holds nothing but missing values in the training part; leave it out with drop")
