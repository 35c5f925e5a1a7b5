"""Reading of text files, Parquet files and tables of other libraries as pandas tables."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emphasis.datasets.dataset_folder import is_dataset_folder, read_dataset_folder
from emphasis.datasets.errors import DamagedFileError, DataNotFoundError
from emphasis.datasets.table_columns import renamed_unnamed, repeated
from emphasis.datasets.table_dates import dates_of_text
from emphasis.datasets.table_dialect import TextTable, read_text_table
from emphasis.datasets.table_numbers import (
    Candidate,
    NumberFormat,
    chosen_format,
    cleaned,
    file_decimal,
    number_candidate,
    numbers_of,
    truth_values,
)
from emphasis.datasets.table_report import Finding, TableError, argument, counted, rows_text
from emphasis.errors import EmphasisTypeError
from emphasis.texts import shortened

PARQUET = (".parquet", ".pq")
_LISTED = 6


@dataclass(frozen=True)
class ReadOptions:
    """Options for reading a table.

    Attributes:
        sep: Separator of the cells of a text file; "" to detect it.
        encoding: Encoding of a text file; "" to detect it.
        decimal: Decimal mark of a text file, "." or ","; "" to detect it.
        missing: Texts that mean "missing", in addition to the empty cell and the usual NA, NaN, None and null.
    """

    sep: str = ""
    encoding: str = ""
    decimal: str = ""
    missing: Sequence[str] = ()


@dataclass(frozen=True, eq=False)
class SourceTable:
    """A table that was read.

    Attributes:
        name: Name of the table in messages.
        frame: pandas table with typed columns.
        rows: (N,) number of each row in the file, from 0.
        total: Number of rows in the file.
        dialect: Description of the dialect of a text file; "" for other tables.
        date_formats: Formats of the columns of dates that are texts.
        findings: Observations about the table.
    """

    name: str
    frame: Any
    rows: NDArray[np.int64]
    total: int
    dialect: str = ""
    date_formats: Mapping[str, str] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()


def open_table(
    source: Any,
    options: ReadOptions | None = None,
    *,
    as_text: Sequence[str] = (),
    as_names: Sequence[str] = (),
    needed: Sequence[str] = (),
) -> SourceTable:
    """Return a table as a pandas table.

    Columns of a text file with numbers, truth values or dates are converted; other tables keep their types, except for
    dates given as texts.

    Args:
        source: Path of a text file, a Parquet file or a folder that `save_to_disk` of Hugging Face's datasets has
            written, or a table of pandas, polars, pyarrow, datasets or any library that narwhals supports.
        options: Options for reading the table.
        as_text: Columns of a text file whose cells are kept unchanged, such as labels.
        as_names: Columns of a text file whose cells are kept as texts, except those that mean "missing".
        needed: Columns that the table should have.

    Raises:
        DataNotFoundError: The file does not exist.
        DamagedFileError: The file cannot be read.
        TableError: An argument is not allowed, or two columns have the same name.
        EmphasisTypeError: The source is not a table.
    """
    options = options or ReadOptions()
    if options.decimal not in ("", ".", ","):
        raise TableError([f"{argument('decimal')}={options.decimal!r} is not allowed; use . or ,"])
    if not isinstance(source, (str, os.PathLike)):
        return _typed_table(frame_of(source), "the table", as_text, as_names)
    path = Path(source)
    if is_dataset_folder(path):
        return _typed_table(read_dataset_folder(path), str(path), as_text, as_names)
    if not path.is_file():
        raise DataNotFoundError(f"table {str(path)!r} does not exist")
    try:
        if is_parquet(path):
            return _typed_table(_parquet(path), str(path), as_text, as_names)
        text = read_text_table(path, sep=options.sep, encoding=options.encoding, needed=needed)
    except OSError as error:
        raise DamagedFileError(f"table {str(path)!r} cannot be read ({error})") from error
    return _from_text(text, str(path), options, as_text, as_names)


def as_written(source: Any, options: ReadOptions | None = None) -> SourceTable:
    """Return a text file with unchanged cells, and any other table like `open_table`."""
    options = options or ReadOptions()
    if not isinstance(source, (str, os.PathLike)) or is_parquet(Path(source)) or Path(source).is_dir():
        return open_table(source, options)
    import pandas as pd

    text = read_text_table(Path(source), sep=options.sep, encoding=options.encoding)
    _refuse_repeated(text.names, str(source))
    names = text.names[:-1] if text.names[1:] and not text.names[-1] else text.names
    columns = {name: column.to_pandas() for name, column in zip(names, text.columns, strict=False)}
    return SourceTable(str(source), pd.DataFrame(columns), text.rows, text.total, str(text.dialect))


def is_parquet(path: Path) -> bool:
    """Return whether a file is Parquet, by its suffix."""
    return path.suffix.lower() in PARQUET


def frame_of(source: Any) -> Any:
    """Return a table of any library as a pandas or a pyarrow table.

    Raises:
        EmphasisTypeError: The source is not a table.
    """
    import pandas as pd

    if isinstance(source, pd.DataFrame):
        return source
    if hasattr(source, "features") and hasattr(source, "to_pandas"):  # a Dataset of Hugging Face
        table = source.to_pandas()
        for name, feature in source.features.items():
            if hasattr(feature, "int2str"):
                known = table[name].notna() & (table[name] >= 0)  # -1 means that there is no label
                table[name] = [
                    feature.int2str(int(v)) if ok else None for v, ok in zip(table[name], known, strict=True)
                ]
        return table
    import narwhals as nw

    try:
        frame = nw.from_native(source)
        return (frame.collect() if isinstance(frame, nw.LazyFrame) else frame).to_arrow()
    except TypeError:
        pass
    if hasattr(source, "__arrow_c_stream__"):
        import pyarrow as pa

        return pa.table(source)
    if hasattr(source, "__dataframe__"):
        return pd.api.interchange.from_dataframe(source)
    raise EmphasisTypeError(
        f"a {type(source).__name__} is not a table; give the path of a file, or a table of pandas, polars, pyarrow "
        "or datasets"
    )


def _parquet(path: Path) -> Any:
    from pyarrow import ArrowException, parquet

    try:
        _refuse_repeated(parquet.read_schema(path).names, str(path))
        return parquet.read_table(path)
    except TableError:
        raise
    except (ArrowException, ValueError) as error:
        raise DamagedFileError(f"table {str(path)!r} cannot be read ({error})") from error


def _refuse_repeated(names: Sequence[str], source: str) -> None:
    if twice := repeated(names):
        listed = ", ".join(map(repr, twice))
        raise TableError(
            [
                f"{source} has two columns {listed}; rename a column"
                if len(twice) == 1
                else f"{source} has two columns of each of the names {listed}; rename them"
            ]
        )


def _typed_table(table: Any, source: str, as_text: Sequence[str], as_names: Sequence[str]) -> SourceTable:
    """Return a table whose columns are typed, except that dates may be texts, as in a frame that was read from CSV."""
    import pandas as pd

    frame = table
    if not isinstance(table, pd.DataFrame):
        _refuse_repeated(table.column_names, source)
        frame = table.to_pandas()
        for name in as_text:  # a missing value would turn large whole numbers into inexact floats
            if name in table.column_names and str(table[name].type) in ("int64", "uint64") and table[name].null_count:
                frame[name] = (
                    table[name]
                    .to_pandas(
                        types_mapper={
                            table[name].type: pd.Int64Dtype() if str(table[name].type) == "int64" else pd.UInt64Dtype()
                        }.get
                    )
                    .to_numpy(dtype=object, na_value=None)
                )
    names = [str(name) for name in frame.columns]
    _refuse_repeated(names, source)
    frame = frame.set_axis(names, axis=1).reset_index(drop=True)
    for name in names:
        if name not in as_text and (better := _better_typed(frame[name])) is not None:
            frame[name] = better
    date_formats: dict[str, str] = {}
    findings: list[Finding] = []
    for name in names:
        texts = None if name in as_text or name in as_names else _texts_alone(frame[name])
        if texts is not None and (dates := dates_of_text(cleaned(texts, ()))) is not None:
            frame[name], date_formats[name], ambiguous = dates
            findings += _ambiguous_dates(name, date_formats[name], len(frame)) if ambiguous else []
    return SourceTable(source, frame, np.arange(len(frame)), len(frame), "", date_formats, tuple(findings))


def _texts_alone(column: Any) -> Any | None:
    """Return a column of texts as a pyarrow column; None if it holds other values."""
    import pyarrow as pa
    from pandas.api import types

    may_be = types.is_object_dtype(column.dtype) or types.is_string_dtype(column.dtype)
    if not may_be or types.infer_dtype(column, skipna=True) != "string":
        return None
    return pa.array(column, pa.string(), from_pandas=True)


def _ambiguous_dates(name: str, form: str, rows: int) -> list[Finding]:
    first = "month" if form.startswith("%m") else "day"
    observation = f"the dates of {name!r} may begin with the day or the month"
    return [Finding("dates", name, rows, observation, f"read with the {first} first")]


def _better_typed(column: Any) -> Any | None:
    """Return a column of dates, durations or decimal numbers, given as Python objects, in a numeric type."""
    import pandas as pd
    from pandas.api import types

    if types.is_timedelta64_dtype(column.dtype):
        return column / pd.Timedelta(days=1)
    if column.dtype != object:
        return None
    kind = types.infer_dtype(column, skipna=True)
    if kind in ("date", "datetime", "datetime64"):
        dates = pd.to_datetime(column, errors="coerce", utc=True).dt.tz_localize(None)
        return dates if bool((dates.notna() == column.notna()).all()) else None
    if kind in ("decimal", "integer", "floating", "mixed-integer-float"):
        return pd.to_numeric(column, errors="coerce").astype("float64")
    return None


def _from_text(
    text: TextTable, source: str, options: ReadOptions, as_text: Sequence[str], as_names: Sequence[str]
) -> SourceTable:
    """Return the table of a text file with typed columns."""
    import pandas as pd

    _refuse_repeated(text.names, source)
    findings: list[Finding] = []
    names = list(text.names)
    for i, name in renamed_unnamed(names).items():
        names[i] = name
    cells = dict(zip(names, text.columns, strict=True))
    plain = {name: cleaned(column, options.missing) for name, column in cells.items() if name not in as_text}
    for name in [name for i, name in enumerate(names) if i and not text.names[i] and name in plain]:
        if plain[name].null_count == len(plain[name]):  # rows that end with a separator
            del cells[name], plain[name]
        else:
            findings.append(Finding("unnamed column", name, len(text.rows), "a column has no name", f"called {name!r}"))
    candidates = {name: number_candidate(column) for name, column in plain.items() if name not in as_names}
    numbers = {name: candidate for name, candidate in candidates.items() if candidate is not None}
    decimal = options.decimal or file_decimal(list(numbers.values()))
    formats = {name: chosen_format(candidate, decimal, text.dialect.sep) for name, candidate in numbers.items()}
    columns: dict[str, Any] = {}
    date_formats: dict[str, str] = {}
    for name, column in cells.items():
        if name in as_text:
            columns[name] = column.to_pandas().astype(object)
        elif name in numbers:
            columns[name] = numbers_of(numbers[name], formats[name])
        elif name in as_names:
            columns[name] = plain[name].to_pandas()
        elif (truths := truth_values(plain[name])) is not None:
            columns[name] = truths
        elif (dates := dates_of_text(plain[name], text.dialect.sep)) is not None:
            columns[name], date_formats[name], ambiguous = dates
            findings += _ambiguous_dates(name, date_formats[name], len(text.rows)) if ambiguous else []
        else:
            columns[name] = plain[name].to_pandas()
    description = _describe_dialect(text, numbers, formats)
    if description:
        findings.insert(0, Finding("dialect", None, 0, f"read with {description}", ""))
    findings += _marks(numbers) + _ragged(text)
    frame = pd.DataFrame(columns, index=range(len(text.rows)))
    return SourceTable(
        source, frame, text.rows, text.total, description or str(text.dialect), date_formats, tuple(findings)
    )


def _describe_dialect(text: TextTable, numbers: Mapping[str, Candidate], formats: Mapping[str, NumberFormat]) -> str:
    """Return a description of the dialect of a file; "" for commas, UTF-8 and plain numbers."""
    comma = [repr(name) for name, form in formats.items() if form.decimal == ","]
    thousands = [repr(name) for name, form in formats.items() if form.thousands]
    percent = [repr(name) for name, candidate in numbers.items() if candidate.percent is not None]
    parts = [] if text.dialect.is_plain else [str(text.dialect)]
    for feature, names in (("a decimal comma", comma), ("thousands separators", thousands), ("percent", percent)):
        if names:
            parts.append(f"{feature} in {shortened(names, _LISTED)}")
    return "; ".join(parts)


def _marks(numbers: Mapping[str, Candidate]) -> list[Finding]:
    return [
        Finding(
            "missing marks",
            name,
            sum(candidate.marks.values()),
            f"the column {name!r} holds numbers and "
            + ", ".join(f"{mark!r} ({count:,})" for mark, count in candidate.marks.items()),
            "read as missing",
        )
        for name, candidate in numbers.items()
        if candidate.marks
    ]


def _ragged(text: TextTable) -> list[Finding]:
    if not text.ragged:
        return []
    lines = [line for line, _ in text.ragged]
    shown = rows_text(lines).replace("row", "line", 1)
    observation = (
        f"{counted(len(lines), 'row')} of {text.total:,} {'has' if len(lines) == 1 else 'have'} another number of "
        f"cells than the header's {len(text.names)} ({shown})"
    )
    return [Finding("ragged rows", None, len(lines), observation, "skipped")]
