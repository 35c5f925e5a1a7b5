"""Any table with a label column: numbers, dates and categories become one float vector per row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emphasis.datasets.download import Progress
from emphasis.datasets.split import Split, draw_stratified
from emphasis.datasets.table_columns import kinds_of
from emphasis.datasets.table_encoder import TableEncoder, fit_encoder
from emphasis.datasets.table_features import natural_texts
from emphasis.datasets.table_labels import Labels, known_codes, labels_of
from emphasis.datasets.table_options import TableOptions as TableOptions
from emphasis.datasets.table_report import TableError, TableReport, argument
from emphasis.datasets.table_source import ReadOptions, SourceTable, open_table
from emphasis.datasets.table_source import is_parquet as is_parquet
from emphasis.datasets.table_texts import NgramLearner, TextLearner
from emphasis.datasets.text_columns import text_learner
from emphasis.errors import EmphasisValueError
from emphasis.files import replacing
from emphasis.texts import did_you_mean, shortened

_COLUMNS_SHOWN = 20


@dataclass(frozen=True, eq=False)
class PreparedTable:
    """A table whose rows and columns can be learned from.

    Attributes:
        frame: The pandas table of the rows that are used, with all columns, typed.
        label: The label column.
        labels: The classes of the rows of the file; `codes` of those that are used are `given`.
        given: (N,) int64 each row's class.
        rows: (N,) the number of each row in the file, from 0.
        ids: N texts that name the rows; () if there is no such column.
        features: The columns to learn from.
        kinds: The kind of each column besides the label, the ids and the weights.
        encoder: Fitted on all rows.
        learner: How columns of text become numbers.
        report: How it was read, and what was odd.
    """

    frame: Any
    label: str
    labels: Labels
    given: NDArray[np.int64]
    rows: NDArray[np.int64]
    ids: tuple[str, ...]
    features: list[str]
    kinds: dict[str, str]
    encoder: TableEncoder
    report: TableReport
    date_formats: dict[str, str] = field(default_factory=dict)
    learner: TextLearner = field(default_factory=NgramLearner)

    @property
    def texts(self) -> list[str]:
        """The columns of free text."""
        return [name for name in self.features if self.kinds[name] == "text"]

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes' names, in the order of their codes."""
        return self.labels.names


def prepare_table(
    source: Any,
    label: str,
    options: TableOptions | None = None,
    *,
    fewest: int = 1,
    progress: Progress = lambda *_: None,
) -> PreparedTable:
    """Return a table's classes and features, and a report of everything that is odd about it.

    Args:
        source: As `table_source.open_table` takes it.
        label: The label column.
        options: What was asked for.
        fewest: Rows that a class needs to be no rare one.
        progress: Called as `progress(task, done, total)` while texts are encoded.

    Raises:
        DataNotFoundError, DamagedFileError: There is no such file, or it cannot be read.
        TableError: It cannot be used; the message lists everything that forbids it.
    """
    options = options or TableOptions()
    singled_out = [name for name in (label, options.id_column, options.weight_column) if name]
    table = open_table(
        source,
        options.read,
        as_text=[name for name in (label, options.id_column) if name],
        as_names=[*options.columns.categorical, *options.columns.text],
        needed=[*singled_out, *options.drop],
    )
    named = [*options.columns.categorical, *options.columns.keep, *options.columns.text, *options.drop]
    problems = options.labels.problems() + _absent(table, [*singled_out, *named])
    problems += [
        f"the column {name!r} cannot be both text and {other}"
        for name in options.columns.text
        for other, others in (
            ("the label", (label,)),
            ("dropped", options.drop),
            ("a category", options.columns.categorical),
        )
        if name in others
    ]
    if label in (*options.drop, options.weight_column, options.id_column):
        problems.append(f"the label column {label!r} cannot be dropped, and is neither the rows' name nor their weight")
    if not len(table.frame):
        problems.append(f"{table.name} has no rows")
    if problems:
        raise TableError(problems, table.name)
    labels = labels_of(table.frame[label], label, table.rows, fewest, options.labels)
    problems += labels.problems
    used = labels.codes >= 0
    names = [name for name in table.frame.columns if name not in (*singled_out, *options.drop)]
    learner = text_learner(options.texts, progress)
    columns = kinds_of(table.frame, names, table.rows, options.columns, learner.describe())
    frame = table.frame[used].reset_index(drop=True) if used.any() else table.frame
    features = [name for name in columns.features if frame[name].notna().any()]
    if not features:
        problems.append(
            f"{table.name} has no column besides the label {label!r} to learn from"
            + "".join(f"; {finding}" for finding in columns.findings)
        )
    if options.texts.encoder and not columns.texts:
        problems.append(
            f"{table.name} has no column of text for the encoder {options.texts.encoder!r}; name one with "
            f"{argument('text')}"
        )
    encoder = TableEncoder(())
    try:
        encoder = fit_encoder(
            frame,
            features,
            options.columns.categorical,
            options.columns.max_levels,
            table.date_formats,
            columns.texts,
            learner,
        )
    except TableError as error:
        problems += error.problems
    if problems:
        raise TableError(problems, table.name)
    return PreparedTable(
        frame=frame,
        label=label,
        labels=labels,
        given=labels.codes[used],
        rows=table.rows[used],
        ids=_ids(frame, options.id_column),
        features=features,
        kinds=columns.kinds,
        encoder=encoder,
        report=TableReport(
            source=table.name,
            rows=table.total,
            used=int(used.sum()),
            dialect=table.dialect,
            findings=(*table.findings, *labels.findings, *columns.findings),
        ),
        date_formats=dict(table.date_formats),
        learner=learner,
    )


def read_labels(source: Any, label: str, options: TableOptions | None = None) -> tuple[Labels, SourceTable]:
    """Return the classes of a table's label column, and the table, whose other columns may be anything.

    Raises:
        DataNotFoundError, DamagedFileError: There is no such file, or it cannot be read.
        TableError: It cannot be used; the message lists everything that forbids it.
    """
    options = options or TableOptions()
    names = [name for name in (label, options.id_column) if name]
    table = open_table(source, options.read, as_text=names, needed=names)
    if problems := options.labels.problems() + _absent(table, names):
        raise TableError(problems, table.name)
    labels = labels_of(table.frame[label], label, table.rows, 1, options.labels)
    if labels.problems:
        raise TableError(labels.problems, table.name)
    return labels, table


def load_table(
    root: Path,
    progress: Progress,
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
    sep: str = "",
    encoding: str = "",
    decimal: str = "",
    keep: Sequence[str] = (),
    id_column: str = "",
    unlabeled: str = "drop",
    rare_classes: str = "keep",
    merge_spellings: str = "form",
    text: str | Sequence[str] = (),
    encoder: str = "",
    download: bool = False,
) -> Split:
    """Return a table's rows as vectors (N, D) float32 and its label column as classes.

    A numeric column is standardized, (x - mean) / deviation, by the training part's statistics; where a value is
    missing, the training part's median stands in, and a further column says so with a 1, provided the training part
    misses some too. A date becomes year, month, day, weekday and days since the first one. Any other column (text,
    boolean, category) becomes one column of 0 and 1 per level that the training part has, a missing value being a level
    of its own; a level that only the test part has is all zeros. A column of free text becomes TF-IDF of words and of
    parts of words, reduced by a truncated SVD. Columns are in the order of the table's, texts last; rows too. Columns
    that number the rows, identifiers and empty columns are left out; `notes` of the result names them.

    Labels are texts as they are written: only an empty cell is missing, and 010 and 10 are two classes. Classes are
    numbered in the order of the label's sorted values.

    Args:
        root: The data folder.
        progress: Called as `progress(task, done, total)` while texts are encoded.
        file: The table, relative to `root` or absolute; Parquet by its suffix (.parquet, .pq), else text with a header.
        label: The label column: texts, booleans or whole numbers.
        test_file: A second table with the same columns as the test part; its other columns are ignored.
        test_share: Without it, the share of each class that becomes the test part, in (0, 1). 0: all rows are trained
            on, and the test part is the training part.
        seed: Of that choice.
        categorical: Columns whose numbers are names.
        drop: Columns to leave out.
        missing: What means "missing" in a text file besides an empty field and the usual NA, NaN, None, null and the
            like: "?", for instance. Not in the label column.
        max_levels: More distinct values than this in a column of categories are an error. Labels have no such limit.
        sep: What separates the cells of a text file; "" to detect comma, semicolon, tab or bar.
        encoding: Of a text file; "" to detect it.
        decimal: The decimal mark of a text file, "." or ","; "" to detect it.
        keep: Columns to use although they look like row numbers or identifiers.
        id_column: A column that names the rows; they are the result's `sources`.
        unlabeled: "drop" rows without a label, or "error".
        rare_classes: What becomes of classes that are too rare for a test part: "keep" those of two rows or more,
            "merge" all into one, "drop" them, or "error".
        merge_spellings: Which spellings of a class are one: "form" (blanks around, Unicode form), "case" or "none".
        text: Columns of free text, beside those that are found by their content.
        encoder: Folder or name of a pretrained encoder, whose vectors of texts take the place of TF-IDF.
        download: Whether the encoder may be downloaded.

    Raises:
        DataNotFoundError: There is no such file, or no such encoder.
        DamagedFileError: It cannot be read.
        TableError: The table cannot be used; the message lists everything that forbids it, and what to do.
    """
    if not 0.0 <= test_share < 1.0:
        raise EmphasisValueError(
            f"test_share={test_share} is not allowed; use a number between 0 and 1, or 0 for no test part"
        )
    options = TableOptions.of(
        sep=sep,
        encoding=encoding,
        decimal=decimal,
        missing=missing,
        unlabeled=unlabeled,
        rare_classes=rare_classes,
        merge_spellings=merge_spellings,
        categorical=categorical,
        keep=keep,
        max_levels=max_levels,
        drop=drop,
        id_column=id_column,
        text=text,
        encoder=encoder,
        download=download,
    )
    fewest = 2 if test_file is None and test_share else 1
    table = prepare_table(root / file, label, options, fewest=fewest, progress=progress)
    test_frame = None
    if test_file is None and not test_share:
        train = test = np.arange(len(table.given))
    elif test_file is None:
        test = draw_stratified(table.given, max(round(test_share * len(table.given)), 1), seed)
        train = np.setdiff1d(np.arange(len(table.given)), test)
    else:
        train = np.arange(len(table.given))
        test_frame, test_labels = _test_part(root / test_file, table, options)
    fitted = table.encoder
    if len(train) < len(table.given):
        fitted = fit_encoder(
            table.frame.iloc[train],
            table.features,
            categorical,
            max_levels,
            table.date_formats,
            table.texts,
            table.learner,
        )
    inputs = fitted.transform(table.frame.iloc[train])
    if test_frame is not None:
        test_inputs = fitted.transform(test_frame)
    else:
        test_inputs = inputs if test is train else fitted.transform(table.frame.iloc[test])
        test_labels = table.given[test]
    return Split(
        inputs,
        table.given[train],
        test_inputs,
        test_labels,
        len(table.classes),
        table.classes,
        sources=tuple(table.ids[i] for i in train) if table.ids else (),
        notes=tuple(table.report.lines(str)),
        rows=table.rows[train],
    )


def _test_part(path: Path, table: PreparedTable, options: TableOptions) -> tuple[Any, NDArray[np.int64]]:
    """Return the labeled rows of a second table, and their classes."""
    test = read_like(path, table.encoder, options.read, as_text=[table.label])
    if absent := _absent(test, [table.label, *table.features]):
        raise TableError(absent, test.name)
    codes = known_codes(test.frame[table.label], table.classes, table.labels.spellings, options.labels.merge_spellings)
    if (strange := np.flatnonzero(codes == -2)).size:
        raise EmphasisValueError(
            f"{path} has the label {str(test.frame[table.label].iloc[strange[0]])!r}, which the training table lacks"
        )
    if not (codes >= 0).any():
        raise EmphasisValueError(f"{path} has no row with a label")
    return test.frame[codes >= 0], codes[codes >= 0]


def read_like(
    source: Any, encoder: TableEncoder, options: ReadOptions | None = None, *, as_text: Sequence[str] = ()
) -> SourceTable:
    """Return further rows, read as the rows that an encoder was fitted on: its categories and dates stay texts."""
    names = [column.name for column in encoder.columns if type(column).__name__ != "NumericColumn"]
    return open_table(source, options, as_text=as_text, as_names=names, needed=[c.name for c in encoder.columns])


def read_table(path: Path, missing: Sequence[str] = (), options: ReadOptions | None = None) -> Any:
    """Return a text or Parquet file as a pandas table with rows and with names that are texts, each there once.

    Raises:
        DataNotFoundError, DamagedFileError, TableError: As `load_table`.
    """
    table = open_table(path, options or ReadOptions(missing=missing))
    if not len(table.frame):
        raise TableError([f"{path} has no rows"])
    return table.frame


def write_table(table: Any, path: Path) -> None:
    """Write a pandas table without its index, as Parquet or CSV by the suffix, whole or not at all."""
    with replacing(path) as partial:
        if is_parquet(partial):
            table.to_parquet(partial, index=False)
        else:
            table.to_csv(partial, index=False)


def _absent(table: SourceTable, names: Sequence[str]) -> list[str]:
    """Return a message for each column that a table should have and lacks."""
    known = list(table.frame.columns)
    listed = shortened([repr(column) for column in known], _COLUMNS_SHOWN)
    return [
        f"{table.name} has no column {name!r}{did_you_mean(name, known)}; it has {listed}"
        for name in dict.fromkeys(names)
        if name not in known
    ]


def _ids(frame: Any, column: str) -> tuple[str, ...]:
    if not column:
        return ()
    codes, texts = natural_texts(frame[column])
    return tuple("" if code < 0 else texts[code] for code in codes)
