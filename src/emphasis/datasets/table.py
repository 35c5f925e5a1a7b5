"""Tables with a label column, whose numbers, dates, categories and texts are encoded as one float vector per row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emphasis.datasets.copies import table_copies
from emphasis.datasets.download import Progress
from emphasis.datasets.split import Split, draw_groups
from emphasis.datasets.table_columns import constant_columns, kinds_of, only_text, unused_columns
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
    """A table that is prepared for training.

    Attributes:
        frame: pandas table of the rows that are used, with typed columns.
        label: Name of the label column.
        labels: Classes of all rows of the file; `given` has the codes of the rows that are used.
        given: (N,) int64, class of each row.
        rows: (N,) number of each row in the file, from 0.
        ids: N texts that name the rows; () if there is no such column.
        features: Columns that are used as features.
        kinds: Kind of each column except the label, the ids and the weights.
        encoder: Encoder fitted on all rows.
        learner: Learner of the columns of text.
        report: Report on how the table was read, and of observations about it.
        groups: (N,) number of the group of each row that is used; rows of a group repeat each other, and are held out
            together.
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
    groups: NDArray[np.int64]
    date_formats: dict[str, str] = field(default_factory=dict)
    learner: TextLearner = field(default_factory=NgramLearner)

    @property
    def texts(self) -> list[str]:
        """Names of the columns of free text."""
        return [name for name in self.features if self.kinds[name] == "text"]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their codes."""
        return self.labels.names


def prepare_table(
    source: Any,
    label: str,
    options: TableOptions | None = None,
    *,
    fewest: int = 1,
    progress: Progress = lambda *_: None,
) -> PreparedTable:
    """Return the classes and features of a table, and a report of observations about it.

    Args:
        source: Table, as accepted by `table_source.open_table`.
        label: Name of the label column.
        options: Options for the table.
        fewest: Smallest number of rows of a class that is not rare.
        progress: Called as `progress(task, done, total)` while texts are encoded.

    Raises:
        DataNotFoundError, DamagedFileError: The file does not exist, or cannot be read.
        TableError: The table cannot be used; the message lists all problems.
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
    constant = constant_columns(frame, columns.features, (*options.columns.keep, *options.columns.text))
    columns.findings += constant.values()
    features = [name for name in columns.features if name not in constant and frame[name].notna().any()]
    texts = [name for name in columns.texts if name in features]
    if not features:
        problems.append(
            f"{table.name} has no column besides the label {label!r} to learn from"
            + "".join(f"; {finding}" for finding in columns.findings)
        )
    if options.texts.max_tokens:
        features, more = only_text(texts, features)
        problems += more
        columns.findings += unused_columns(columns.features, texts) if not more else []
    if options.texts.encoder and not texts:
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
            texts,
            learner,
        )
    except TableError as error:
        problems += error.problems
    if problems:
        raise TableError(problems, table.name)
    groups, repeated = table_copies(frame, features, texts, labels.codes[used], labels.names, label, table.rows[used])
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
            findings=(*table.findings, *labels.findings, *columns.findings, *repeated),
        ),
        groups=groups,
        date_formats=dict(table.date_formats),
        learner=learner,
    )


def read_labels(source: Any, label: str, options: TableOptions | None = None) -> tuple[Labels, SourceTable]:
    """Return the classes of a table's label column, and the table, whose other columns are not restricted.

    Raises:
        DataNotFoundError, DamagedFileError: The file does not exist, or cannot be read.
        TableError: The table cannot be used; the message lists all problems.
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
    missing_labels: Sequence[str] = (),
    text: str | Sequence[str] = (),
    encoder: str = "",
    download: bool = False,
) -> Split:
    """Return a table's rows as vectors (N, D) float32 and its label column as classes.

    A numeric column is standardized, (x - mean) / deviation, with statistics of the training part. Missing values are
    replaced by the median of the training part, and marked with a 1 in a further column if the training part has
    missing values as well. A date is encoded as year, month, day, weekday and days since the first date. Any other
    column (text, boolean, category) is one-hot encoded with the levels of the training part, where a missing value is a
    separate level; levels that occur in the test part only are encoded as zeros. A column of free text is encoded as
    TF-IDF of words and of parts of words, reduced by a truncated SVD. Rows and columns keep the order of the table,
    with texts last. Columns that number the rows, identifiers and empty columns are ignored, and named in `notes` of
    the result.

    Labels are not converted: only an empty cell is missing, and 010 and 10 are different classes. Classes are numbered
    in the order of their sorted names.

    Args:
        root: Data folder.
        progress: Called as `progress(task, done, total)` while texts are encoded.
        file: Path of the table, relative to `root` or absolute: a Parquet file (.parquet, .pq), or a text file with a
            header.
        label: Name of the label column, which holds texts, booleans or whole numbers.
        test_file: Second table with the same columns, used as the test part; its other columns are ignored.
        test_share: Share of each class in the test part if there is no `test_file`, in (0, 1); 0 to train on all rows
            and to test on the training part.
        seed: Seed of the choice of the test part.
        categorical: Numeric columns to treat as categories.
        drop: Columns to ignore.
        missing: Texts that mean "missing" in a text file, such as "?", in addition to an empty field and the usual NA,
            NaN, None and null. They are not used for the label column.
        max_levels: Largest number of levels of a column of categories. Of a column with more values, the most frequent
            ones are levels, and all others are one level. Labels have no such limit.
        sep: Separator of the cells of a text file; "" to detect comma, semicolon, tab or vertical bar.
        encoding: Encoding of a text file; "" to detect it.
        decimal: Decimal mark of a text file, "." or ","; "" to detect it.
        keep: Columns to use although they look like row numbers or identifiers.
        id_column: Column that names the rows, which become `sources` of the result.
        unlabeled: "drop" rows without a label, or "error".
        rare_classes: Treatment of classes that are too rare for a test part: "keep" those with two rows or more,
            "merge" all into one class, "drop" them, or "error".
        merge_spellings: Differences in spelling that are ignored in class names: "form" (surrounding blanks and Unicode
            form), "case" (upper and lower case as well) or "none".
        missing_labels: Texts that mean that a row has no label, such as "NA".
        text: Columns of free text, in addition to those that are detected by their content.
        encoder: Folder or name of a pretrained encoder, whose vectors of texts replace TF-IDF.
        download: Whether the encoder may be downloaded.

    Raises:
        DataNotFoundError: The file or the encoder does not exist.
        DamagedFileError: The file or the encoder cannot be read.
        TableError: The table cannot be used; the message lists all problems, and what to do.
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
        missing_labels=missing_labels,
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
        test = draw_groups(table.groups, table.given, test_share, seed)
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
        groups=table.groups[train] if len(np.unique(table.groups)) < len(table.groups) else None,
    )


def _test_part(path: Path, table: PreparedTable, options: TableOptions) -> tuple[Any, NDArray[np.int64]]:
    """Return the labeled rows of a second table, and their classes."""
    test = read_like(path, table.encoder, options.read, as_text=[table.label])
    if absent := _absent(test, [table.label, *table.features]):
        raise TableError(absent, test.name)
    codes = known_codes(test.frame[table.label], table.classes, table.labels.spellings, options.labels)
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
    """Read further rows like the rows that an encoder was fitted on; its categories and dates remain texts."""
    names = [column.name for column in encoder.columns if type(column).__name__ != "NumericColumn"]
    return open_table(source, options, as_text=as_text, as_names=names, needed=[c.name for c in encoder.columns])


def write_table(table: Any, path: Path) -> None:
    """Write a pandas table without its index, as Parquet or CSV by the suffix, atomically."""
    with replacing(path) as partial:
        if is_parquet(partial):
            table.to_parquet(partial, index=False)
        else:
            table.to_csv(partial, index=False)


def _absent(table: SourceTable, names: Sequence[str]) -> list[str]:
    """Return a message for each required column that a table lacks."""
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
