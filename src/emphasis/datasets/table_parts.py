"""Tables in several Parquet files, of which one is in memory at a time.

A first pass summarizes each file. The summaries add up to the classes and to the encoder of the whole table, with which
any of the files is then encoded. Columns are used as they are typed in the files: nothing is detected.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emphasis.datasets.errors import DamagedFileError, DataNotFoundError
from emphasis.datasets.table_encoder import Column, TableEncoder
from emphasis.datasets.table_features import LevelsColumn, NumericColumn, finite_numbers, natural_texts, numeric_first
from emphasis.datasets.table_report import TableError, argument, counted
from emphasis.texts import did_you_mean, one_line

_MOST_CLASSES = 1000


@dataclass(frozen=True)
class PartColumns:
    """Which columns of a table are what.

    Attributes:
        label: Column of the labels.
        numbers: Columns of numbers.
        levels: Columns of categories.
        weight: Column of sample weights; "" if there is none.
        max_levels: Largest number of distinct values of a column of categories.
    """

    label: str
    numbers: tuple[str, ...]
    levels: tuple[str, ...]
    weight: str = ""
    max_levels: int = 100

    @property
    def all(self) -> list[str]:
        """Names of all columns that are read."""
        return [self.label, *self.numbers, *self.levels, *([self.weight] if self.weight else [])]


@dataclass(frozen=True)
class NumberSummary:
    """What is known of the numbers of a column, from any number of files.

    Attributes:
        known: Number of values that are not missing.
        missing: Number of missing values.
        scale: Largest absolute value, or 1.
        mean: Mean of the values divided by `scale`.
        squares: Sum of the squared deviations from it.
        median: Median of one file; the weighted median of the files' medians for several.
    """

    known: int
    missing: int
    scale: float
    mean: float
    squares: float
    median: float


@dataclass(frozen=True)
class PartSummary:
    """What the table's encoder and its folds need of one file.

    Attributes:
        labels: Number of rows of each label, by its text.
        numbers: Summary of each column of numbers.
        levels: Number of rows of each value of each column of categories; None stands for missing values.
    """

    labels: Mapping[str, int]
    numbers: Mapping[str, NumberSummary]
    levels: Mapping[str, Mapping[str | None, int]]


def columns_of(
    files: Sequence[Path],
    label: str,
    *,
    drop: Sequence[str] = (),
    categorical: Sequence[str] = (),
    weight: str = "",
    max_levels: int = 100,
) -> PartColumns:
    """Return the columns of the files, by their types there.

    Raises:
        DataNotFoundError, DamagedFileError: A file does not exist, or is no Parquet file.
        TableError: Files have different columns, or a column cannot be used.
    """
    schema = _schema(files[0])
    for file in files[1:]:
        other = _schema(file)
        if different := {*schema.items()} ^ {*other.items()}:
            name = min(different)[0]
            both = f"{schema.get(name, 'absent')} and {other.get(name, 'absent')}"
            text = f"{files[0]} and {file} differ in the column {name!r}: {both}"
            raise TableError([f"{text}; all files need the same columns of the same types"])
    problems = [
        f"{files[0].name} has no column {name!r}{did_you_mean(name, list(schema))}"
        for name in (label, *drop, *categorical, *([weight] if weight else []))
        if name not in schema
    ]
    features = [name for name in schema if name not in (label, weight, *drop)]
    kinds = {name: _kind(schema[name]) for name in features}
    problems += [
        f"the column {name!r} holds {schema[name]}, which a table in several files may not: leave it out with "
        f"{argument('drop')}, or write it as numbers or as texts"
        for name, kind in kinds.items()
        if not kind
    ]
    if not features:
        problems.append("there is no column besides the label")
    if problems:
        raise TableError(problems)
    levels = tuple(name for name, kind in kinds.items() if kind == "levels" or name in categorical)
    numbers = tuple(name for name in features if name not in levels)
    return PartColumns(label, numbers, levels, weight, max_levels)


def _schema(file: Path) -> dict[str, str]:
    """Return the types of a file's columns, as text."""
    import pyarrow
    import pyarrow.parquet

    if not file.is_file():
        raise DataNotFoundError(f"{file} does not exist")
    try:
        return {field.name: _type(field.type) for field in pyarrow.parquet.read_schema(file)}
    except (pyarrow.ArrowException, OSError) as error:
        raise DamagedFileError(f"{file} cannot be read as Parquet ({one_line(error)})") from error


def _type(kind: Any) -> str:
    import pyarrow

    return _type(kind.value_type) if pyarrow.types.is_dictionary(kind) else str(kind)


def _kind(kind: str) -> str:
    """Return "numbers" or "levels"; "" for a type that is not supported."""
    if kind.startswith(("int", "uint", "float", "halffloat", "double")):
        return "numbers"
    return "levels" if kind in ("bool", "string", "large_string", "string_view", "null") else ""


def footer_digest(file: Path) -> str:
    """Return a digest of the footer of a Parquet file: its columns, numbers of rows, sizes and ranges of values."""
    import pyarrow.parquet

    metadata = pyarrow.parquet.read_metadata(file)
    return hashlib.sha256(repr((file.stat().st_size, metadata.to_dict())).encode()).hexdigest()


def read_part(file: Path, columns: PartColumns) -> Any:
    """Return the used columns of a file as a pandas table."""
    import pyarrow.parquet

    # A cell that names a column may have a dot, which `columns=` would take for a path into nested columns.
    return pyarrow.parquet.ParquetFile(file).read(columns.all, use_threads=False).to_pandas()[columns.all]


def summarize_part(file: Path, columns: PartColumns) -> PartSummary:
    """Return the summary of a file.

    Raises:
        TableError: A column of categories has too many values, or a column of numbers holds infinity.
    """
    table = read_part(file, columns)
    table = table[table[columns.label].notna()]
    levels = {name: _counts(table[name], name, columns.max_levels, "max_levels") for name in columns.levels}
    counts = _counts(table[columns.label], columns.label, _MOST_CLASSES, "")
    labels = {text: count for text, count in counts.items() if text is not None}
    return PartSummary(labels, {name: _summarize(table[name], name) for name in columns.numbers}, levels)


def _counts(column: Any, name: str, most: int, option: str) -> Counter[str | None]:
    codes, texts = natural_texts(column)
    _check_number(len(texts), len(codes), name, most, option)
    counts: Counter[str | None] = Counter(dict(zip(texts, np.bincount(codes[codes >= 0]).tolist(), strict=False)))
    if missing := int((codes < 0).sum()):
        counts[None] = missing
    return counts


def _check_number(values: int, rows: int, name: str, most: int, option: str) -> None:
    if values > most:
        cure = f"leave it out with {argument('drop')}, or allow as many with {argument(option)}" if option else ""
        limit = f"{argument(option)}={most}" if option else f"{most:,} classes"
        text = f"the column {name!r} has {values:,} distinct values in {counted(rows, 'row')}, more than {limit}"
        raise TableError([f"{text}; {cure}" if cure else text])


def _summarize(column: Any, name: str) -> NumberSummary:
    values = finite_numbers(column, name)
    known = values[~np.isnan(values)]
    if not len(known):
        return NumberSummary(0, len(values), 1.0, 0.0, 0.0, 0.0)
    scale = float(np.abs(known).max() or 1.0)
    scaled = known / scale
    mean = float(scaled[0]) if known.min() == known.max() else float(scaled.mean())
    squares = float(np.square(scaled - mean).sum())
    return NumberSummary(len(known), len(values) - len(known), scale, mean, squares, float(np.median(known)))


def merged_summary(parts: Sequence[NumberSummary]) -> NumberSummary:
    """Return the summary of the numbers of several files."""
    some = [part for part in parts if part.known]
    missing = sum(part.missing for part in parts)
    if not some:
        return NumberSummary(0, missing, 1.0, 0.0, 0.0, 0.0)
    scale, known = max(part.scale for part in some), sum(part.known for part in some)
    means = np.array([part.mean * (part.scale / scale) for part in some])
    counts = np.array([part.known for part in some])
    mean = float(means[0]) if (means == means[0]).all() else float(counts @ means / known)
    squares = sum(part.squares * (part.scale / scale) ** 2 for part in some)
    squares += float(counts @ np.square(means - mean))
    ordered = sorted(some, key=lambda part: part.median)
    middle = int(np.searchsorted(np.cumsum([part.known for part in ordered]), 0.5 * known))
    return NumberSummary(known, missing, scale, mean, squares, ordered[middle].median)


def merged_encoder(columns: PartColumns, parts: Sequence[PartSummary]) -> TableEncoder:
    """Return the encoder of the whole table: that of `fit_encoder`, but for the median of a column with missing values.

    Raises:
        TableError: A column of categories has too many values.
    """
    encoders: list[Column] = [
        _number_column(name, merged_summary([part.numbers[name] for part in parts])) for name in columns.numbers
    ]
    for name in columns.levels:
        counts = sum((Counter(part.levels[name]) for part in parts), Counter[str | None]())
        texts = [text for text in counts if text is not None]
        _check_number(len(texts), counts.total(), name, columns.max_levels, "max_levels")
        levels: list[str | None] = [*sorted(texts, key=numeric_first)]
        encoders.append(LevelsColumn(name, (*levels, None) if None in counts else tuple(levels)))
    return TableEncoder(tuple(encoders))


def _number_column(name: str, summary: NumberSummary) -> NumericColumn:
    filled = summary
    if summary.missing and summary.known:  # the median takes the place of missing values
        at_median = NumberSummary(summary.missing, 0, summary.scale, summary.median / summary.scale, 0.0, 0.0)
        filled = merged_summary([replace(summary, missing=0), at_median])
    deviation = float(np.sqrt(filled.squares / filled.known)) if filled.known else 0.0
    return NumericColumn(name, summary.median, summary.scale, filled.mean, deviation or 1.0, summary.missing > 0)


def merged_labels(label: str, parts: Sequence[PartSummary]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Return the names of the classes, and the number of rows of each class in each file, (files, C).

    Raises:
        TableError: There are fewer than two classes, or too many.
    """
    names = sorted({text for part in parts for text in part.labels}, key=numeric_first)
    _check_number(len(names), sum(sum(part.labels.values()) for part in parts), label, _MOST_CLASSES, "")
    if len(names) < 2:
        raise TableError([f"the label column {label!r} holds fewer than 2 classes; classification needs 2"])
    return tuple(names), np.array([[part.labels.get(name, 0) for name in names] for part in parts], dtype=np.int64)


def codes_of(column: Any, names: Sequence[str]) -> NDArray[np.int64]:
    """Return the class of each label of a pandas column, -1 where there is none."""
    codes, texts = natural_texts(column)
    index = {name: number for number, name in enumerate(names)}
    return np.array([*(index[text] for text in texts), -1], dtype=np.int64)[codes]


def folds_of(
    codes: NDArray[np.int64], before: NDArray[np.int64], folds: int, seed: int, part: int
) -> NDArray[np.int64]:
    """Return the fold of each row of a file, -1 for rows without a label.

    The rows of a class are dealt to the folds in turn, through all files, in a random order within each file. So all
    folds of the table have equal shares of each class.

    Args:
        codes: Class of each row, (N,), -1 for rows without a label.
        before: Number of rows of each class in the files before, (C,).
        folds: Number of folds.
        seed: Seed of the order.
        part: Number of the file.
    """
    random = np.random.default_rng([seed, part])
    fold = np.full(len(codes), -1, dtype=np.int64)
    for number, earlier in enumerate(before):
        rows = np.flatnonzero(codes == number)
        fold[random.permutation(rows)] = (earlier + np.arange(len(rows))) % folds
    return fold


def fold_sizes(counts: NDArray[np.int64], folds: int) -> NDArray[np.int64]:
    """Return how many rows of each file are in each fold, (files, folds), given the counts of `merged_labels`."""
    ends = counts.cumsum(axis=0)
    starts = ends - counts
    numbers = np.arange(folds)
    sizes = [((ends + folds - 1 - k) // folds - (starts + folds - 1 - k) // folds).sum(axis=1) for k in numbers]
    return np.stack(sizes, axis=1)
