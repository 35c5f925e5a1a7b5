"""Reading of text tables: separator, encoding and quotes are detected, and every cell is kept as text."""

from __future__ import annotations

import codecs
import csv
import io
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emphasis.datasets.errors import DamagedFileError
from emphasis.datasets.table_report import TableError, argument, counted

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "vertical bar"}
_SAMPLE, _SAMPLE_RECORDS, _CHUNK = 1 << 20, 1000, 20_000
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_WESTERN_SIGNS = frozenset(
    "\u00a0\u20ac\u2018\u2019\u201c\u201d\u2022\u2013\u2014\u00b0\u00b2\u00b3\u00a7\u00b1\u00a3\u00a5".encode("cp1252")
)
_END = "\0end of the table\0"
_QUOTES: tuple[dict[str, Any], ...] = (
    {"strict": True},
    {"strict": True, "doublequote": False, "escapechar": "\\"},  # if the sample has an escaped quote
    {"strict": True},  # backslashes before quotes are part of the texts
    {"strict": False},  # allows "a" ,b and "5" inch", if no quote extends over the end of a line
)


@dataclass(frozen=True)
class Dialect:
    """Separator and encoding of a text table.

    Attributes:
        sep: Separator of cells.
        encoding: Python's name of the encoding.
    """

    sep: str
    encoding: str

    def __str__(self) -> str:
        return f"separator {SEPARATORS.get(self.sep, repr(self.sep))}, encoding {self.encoding}"

    @property
    def is_plain(self) -> bool:
        """Whether it is the default dialect, which is not reported."""
        return self.sep == "," and self.encoding == "utf-8"


@dataclass(frozen=True, eq=False)
class TextTable:
    """The cells of a text table.

    Attributes:
        names: Names in the header without surrounding blanks; "" for columns without a name.
        columns: One pyarrow array of texts per column, with unchanged cells.
        rows: (N,) number of each row in the file, from 0, counting rows that are skipped.
        total: Number of rows in the file.
        ragged: (line, cells) of each row that is skipped because it has another number of cells than the header.
        dialect: Dialect of the file.
    """

    names: list[str]
    columns: list[Any]
    rows: NDArray[np.int64]
    total: int
    ragged: list[tuple[int, int]]
    dialect: Dialect


def read_text_table(path: Path, *, sep: str = "", encoding: str = "", needed: Sequence[str] = ()) -> TextTable:
    """Read every cell of a text table with a header.

    Args:
        path: Path of the file.
        sep: Separator of cells; "" to detect it.
        encoding: Encoding; "" to detect it.
        needed: Names that the header should have, which decide between equally plausible separators.

    Raises:
        DamagedFileError: The file is empty or not text, or its quotes do not match.
        TableError: An argument is not allowed.
    """
    sep = {"tab": "\t", "\\t": "\t"}.get(sep, sep)
    if sep and (len(sep) != 1 or sep in '"\r\n'):
        raise TableError([f"{argument('sep')}={sep!r} is not allowed; use one character, such as ; or tab"])
    encoding = _checked_encoding(encoding) if encoding else detect_encoding(path)
    try:
        with path.open(encoding=encoding, newline="") as file:
            sample = file.read(_SAMPLE)
            is_complete = not file.read(1)
    except (UnicodeError, ValueError) as error:
        raise _undecodable(path, encoding, error) from error
    if not sample.strip():
        raise DamagedFileError(f"table {str(path)!r} cannot be read (it is empty)")
    first = sample.splitlines(keepends=True)[0]
    if declared := _declared_separator(first):
        sample = sample[len(first) :]
    sep = (
        sep
        or declared
        or _detect_separator(sample, is_complete, needed, "\t" if path.suffix.lower() == ".tsv" else ",")
    )
    dialect = Dialect(sep, encoding)
    problem = ""
    for attempt, quotes in enumerate(_QUOTES):
        if "escapechar" in quotes and '\\"' not in sample:
            continue
        try:
            names, width = _header(_records(sample, is_complete, sep, **quotes))
            table = _read(path, dialect, quotes, names, width, skip=1 if declared else 0)
            if attempt > 0 or not _has_escaped_quotes(table):
                return table
        except csv.Error as error:
            problem = problem or str(error)
        except UnicodeError as error:
            raise _undecodable(path, encoding, error) from error
    raise DamagedFileError(
        f"table {str(path)!r} cannot be read ({problem}); in a cell within quotes, each quote is written twice"
    )


def detect_encoding(path: Path) -> str:
    """Return the encoding of a text file: from its first bytes, or UTF-8 if all of it is valid, or a guess.

    Raises:
        DamagedFileError: Most of the file is UTF-8, but some bytes are not.
    """
    with path.open("rb") as file:
        sample = file.read(_SAMPLE)
    for mark, name in _BOMS:
        if sample.startswith(mark):
            return name
    zeros = np.frombuffer(sample[: len(sample) // 2 * 2], np.uint8).reshape(-1, 2) == 0
    if zeros.size and zeros.any(axis=1).mean() > 0.3:
        return "utf-16-le" if zeros[:, 1].sum() > zeros[:, 0].sum() else "utf-16-be"
    if (position := _first_undecodable(path, "utf-8")) is None:
        return "utf-8"
    text = path.read_bytes()[max(position - _SAMPLE, 0) : position + _SAMPLE].decode("utf-8", errors="replace")
    broken = text.count("\ufffd")
    if sum(not char.isascii() for char in text) - broken > broken:
        raise DamagedFileError(
            f"table {str(path)!r} cannot be read (byte {position:,} is not UTF-8, unlike those before it); correct it, "
            "or name its encoding"
        )
    return _other_alphabet(sample) or ("cp1252" if _first_undecodable(path, "cp1252") is None else "latin-1")


def _other_alphabet(sample: bytes) -> str:
    """Return the encoding that charset-normalizer detects in texts with few Latin letters; "" for other texts.

    In Western European texts, few letters are beyond ASCII, and its guesses among similar code pages are unreliable.
    """
    beyond = sum(byte >= 0x80 and byte not in _WESTERN_SIGNS for byte in sample)
    latin = sum(chr(byte).isalpha() for byte in sample if byte < 0x80)
    if beyond < 200 or beyond < latin:
        return ""
    from charset_normalizer import from_bytes

    best = from_bytes(sample).best()
    return best.encoding if best is not None and best.encoding not in ("ascii", "utf_8") else ""


def _first_undecodable(path: Path, encoding: str) -> int | None:
    """Return the position of the first byte that is not valid in the encoding; None if all are valid."""
    decoder = codecs.getincrementaldecoder(encoding)()
    start = 0
    with path.open("rb") as file:
        while True:
            chunk = file.read(_SAMPLE)
            pending = len(decoder.getstate()[0])
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                return start - pending + error.start
            if not chunk:
                return None
            start += len(chunk)


def _checked_encoding(encoding: str) -> str:
    try:
        name = codecs.lookup(encoding).name
        "".encode(name)
    except (LookupError, UnicodeError):
        message = (
            f"{argument('encoding')}={encoding!r} is unknown; use utf-8, utf-16, latin-1, cp1252 or another of Python's"
        )
        raise TableError([message]) from None
    return "utf-8-sig" if name == "utf-8" else name  # a byte order mark is not part of the first name


def _undecodable(path: Path, encoding: str, error: Exception) -> DamagedFileError:
    return DamagedFileError(f"table {str(path)!r} cannot be read as {encoding} ({error}); name another encoding")


def _declared_separator(line: str) -> str:
    """Return the separator declared in a first line such as sep=; that spreadsheets write; "" if there is none."""
    text = line.rstrip("\r\n").strip('"')
    return text[4:] if text.startswith("sep=") and len(text) == 5 else ""


def _detect_separator(sample: str, is_complete: bool, needed: Sequence[str], usual: str) -> str:
    """Return the separator that splits the sample into rows with as many cells as the header."""
    scores = {}
    for sep in SEPARATORS:
        header, *body = _records(sample, is_complete, sep)
        names = [name.strip() for name in header]
        width, count = Counter(map(len, body)).most_common(1)[0] if body else (len(header), 1)
        if max(width, len(header)) > 1:
            fits = len(header) == width
            consistent = count / max(len(body), 1) if fits or len(header) == width - 1 else 0.0
            scores[sep] = (sum(name in names for name in needed), fits, round(consistent, 2), sep == usual, width)
    return max(scores, key=lambda sep: scores[sep]) if scores else usual


def _records(text: str, is_complete: bool, sep: str, **quotes: Any) -> list[list[str]]:
    """Return the first records of a text; the last record of an incomplete text is dropped, since it may be cut off."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=sep, skipinitialspace=True, **quotes)
    records: list[list[str]] = []
    try:
        records.extend(islice((record for record in reader if record), _SAMPLE_RECORDS + 1))
    except csv.Error:
        if is_complete or not records:
            raise
    if not is_complete and len(records) > 1:
        del records[-1]
    return records or [[""]]


def _header(records: list[list[str]]) -> tuple[list[str], int]:
    """Return a name for each cell of a row, and the number of names in the header.

    If rows have one cell more than the header, either all of them end with a separator, or the first cells are row
    names, for which the header has no name.
    """
    header, *body = records
    names = [name.strip().removeprefix("\ufeff") for name in header]
    width = Counter(map(len, body)).most_common(1)[0][0] if body else len(names)
    if width == len(names) + 1:
        ends_with_separator = all(record[-1] == "" for record in body if len(record) == width)
        names = [*names, ""] if ends_with_separator else ["", *names]
    return names, len(header)


def _read(
    path: Path, dialect: Dialect, quotes: dict[str, Any], names: list[str], header_width: int, skip: int
) -> TextTable:
    """Return the table, or raise csv.Error if its quotes are not of this kind."""
    import pyarrow as pa

    width = len(names)
    chunks: list[list[Any]] = []
    cells: list[list[str]] = []
    rows: list[int] = []
    ragged: list[tuple[int, int]] = []
    total = -1  # the header is not counted
    escaped = _escaped_record(dialect.sep) if "escapechar" in quotes else None
    limit = csv.field_size_limit(sys.maxsize)
    try:
        with path.open(encoding=dialect.encoding, newline="") as file:
            lines = _Lines(islice(file, skip, None))
            reader = csv.reader(lines, delimiter=dialect.sep, skipinitialspace=True, **quotes)
            line = 0
            for record in reader:
                ended, line = line, reader.line_num
                if record and record[-1].endswith(_END):
                    if record != [_END]:
                        raise csv.Error(f"the quote that opens in line {ended + 1 + skip} is never closed")
                    break
                text = lines.consumed()
                if not quotes["strict"] and line - ended > 1:
                    raise csv.Error(f"a quote in line {ended + 1 + skip} runs over the end of the line")
                if escaped is not None and not escaped.fullmatch(text):
                    raise csv.Error(f"the quotes in line {ended + 1 + skip} do not match")
                if not record and width > 1:
                    continue
                total += 1
                if total == 0:
                    continue
                record = record or [""]
                if len(record) != width:
                    ragged.append((ended + 1 + skip, len(record)))
                    continue
                rows.append(total - 1)
                cells.append(record)
                if len(cells) == _CHUNK:
                    chunks.append([pa.array(column, pa.string()) for column in zip(*cells, strict=True)])
                    cells = []
    finally:
        csv.field_size_limit(limit)
    if cells:
        chunks.append([pa.array(column, pa.string()) for column in zip(*cells, strict=True)])
    if total > 0 and len(ragged) > total / 2:
        sizes = f"{header_width} columns, but {counted(len(ragged), 'row')} of {total:,} have another number of cells"
        raise DamagedFileError(
            f"table {str(path)!r} cannot be read (its header has {sizes}, first in line {ragged[0][0]}); is the "
            f"separator {dialect.sep!r}?"
        )
    columns = [pa.chunked_array([chunk[i] for chunk in chunks], pa.string()) for i in range(width)]
    return TextTable(names, columns, np.array(rows, dtype=np.int64), max(total, 0), ragged, dialect)


def _has_escaped_quotes(table: TextTable) -> bool:
    """Return whether cells contain backslashes before quotes, which indicates escaped instead of doubled quotes."""
    import pyarrow.compute as pc

    return any(pc.any(pc.match_substring(column, '\\"')).as_py() for column in table.columns)


class _Lines:
    """Lines followed by an additional line, which an unclosed quote would include."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = chain(lines, [_END])
        self._taken: list[str] = []

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self._taken.append(line)
        return line

    def consumed(self) -> str:
        """Return the lines since the last call, which are those of one record if it is called after each record."""
        text = "".join(self._taken)
        self._taken.clear()
        return text


def _escaped_record(sep: str) -> re.Pattern[str]:
    """Return a pattern of records with escaped quotes, which csv.reader does not check strictly."""
    mark = re.escape(sep)
    cell = rf'(?:"(?:[^"\\]|\\.)*"|(?:[^"\\{mark}\r\n]|\\.)*)'
    return re.compile(rf" *{cell}(?:{mark} *{cell})*\r?\n?", re.DOTALL)
