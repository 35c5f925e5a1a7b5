"""Read tables in random dialects and with random contents, written by a generator that knows what is in them.

    python benchmarks/table_fuzz.py --tables 2000 --out results/table_fuzz.json

A table passes if every row is accounted for (used, or left out and counted), every row that is used has its own class,
and its numbers and dates are what was written. An error counts as a refusal, and one that is not of this package as a
crash.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import io
import json
import random
import tempfile
import time
import traceback
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import emphasis
from emphasis.datasets.table import TableOptions, prepare_table
from emphasis.datasets.table_columns import ColumnOptions
from emphasis.errors import EmphasisError

SEPARATORS = (",", ";", "\t", "|")
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252", "latin-1")
CLASSES = (
    "None",
    "NA",
    "nan",
    "null",
    "n/a",
    "-",
    "?",
    "0",
    "1",
    "10",
    "010",
    "1.0",
    "01",
    "True",
    "False",
    "true",
    "yes",
    "no",
    "A",
    "a",
    "Müller",
    "naïve",
    "Ångström",
    "New York",
    "a, b",
    "a; b",
    "a|b",
    'say "hi"',
    '"quoted"',
    "it's",
    "=1+1",
    "#3",
    "12%",
    "1,5",
    "1.234",
    "2020-01-01",
    "x" * 300,
    "two\nlines",
    "tab\tstop",
    "sep=",
    "Unnamed: 0",
    "<b>",
    "a&b",
    "e\u0301t\u00e9",
    "ﬁne",
    "-1",
    "+1",
    "1e5",
    "inf",
    "'",
    "a=b",
    "C++",
    "R$",
    "50 €",
)
UNICODE_ONLY = ("日本", "Ελλάδα", "Москва", "😀", "עברית", "e\u0301")
WORDS = ("red", "green", "blue", "Zürich", "Genève", "a, b", "x;y", "p|q", 'in "quotes"', "", "two words", "two\nlines")
LABELS = ("label", "y", "class", "Kategorie", "Größe", "my label", "label, given", "a;b", "Label (%)")
NAMES = ("x", "height", "größe", "price, net", "temp;C", "col a", "b|c", "w", "z1", "Value", "d/e", "m²")


@dataclass
class Written:
    """A table as it was written: the truth about it."""

    dialect: dict[str, object]
    label: str
    classes: list[str | None] = field(default_factory=list)  # of each row of the file; None: left out as ragged
    numbers: dict[str, list[float | None]] = field(default_factory=dict)
    dates: dict[str, list[datetime.date]] = field(default_factory=dict)


def write(path: Path, rng: random.Random) -> Written:
    """Write a random table, and return the truth about it."""
    encoding, sep = rng.choice(ENCODINGS), rng.choice(SEPARATORS)
    decimal = rng.choice(".,")
    thousands = rng.choice(["", "", "." if decimal == "," else ",", " ", "'", "\u00a0"])
    escape = rng.random() < 0.15
    dialect = {
        "encoding": encoding,
        "sep": sep,
        "decimal": decimal,
        "thousands": thousands,
        "escape": escape,
        "quoting": rng.choice(["minimal", "all", "nonnumeric"]),
        "end": rng.choice(["\n", "\r\n", "\r"]),
        "last_end": rng.random() < 0.8,
        "declared": rng.random() < 0.05,
        "trailing": rng.random() < 0.08,
        "row_names": rng.random() < 0.08,
        "ragged": rng.random() < 0.15,
        "blank_lines": rng.random() < 0.1,
        "unlabeled": rng.random() < 0.3,
        "spellings": rng.random() < 0.2,
    }
    table = Written(dialect, rng.choice(LABELS))
    rows = rng.randint(6, 60)
    pool = [name for name in (*CLASSES, *UNICODE_ONLY) if _fits(name, encoding)]
    classes = rng.sample(pool, rng.randint(2, 5))
    labels = [*(classes * 2), *rng.choices(classes, k=max(rows - 2 * len(classes), 0))]
    rng.shuffle(labels)
    names = rng.sample([name for name in NAMES if _fits(name, encoding)], rng.randint(1, 5))
    columns: dict[str, list[object]] = {}
    for name in names:
        kind = rng.choice(["number", "number", "integer", "percent", "words", "date"])
        if kind == "words":
            words = [word for word in WORDS if _fits(word, encoding)]
            columns[name] = [rng.choice(words) for _ in labels]
        elif kind == "date":
            days = [datetime.date(2000, 1, 1) + datetime.timedelta(rng.randint(0, 9000)) for _ in labels]
            days[0] = datetime.date(2010, 5, 23)  # so that days and months cannot be exchanged
            form = rng.choice(["%Y-%m-%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%Y/%m/%d"])
            table.dates[name], columns[name] = days, [day.strftime(form) for day in days]
        else:
            table.numbers[name], columns[name] = _numbers(kind, len(labels), decimal, thousands, rng)
    columns[table.label] = [_spelled(label, rng, bool(dialect["spellings"])) for label in labels]
    order = list(columns)
    rng.shuffle(order)
    if dialect["unlabeled"]:
        for row in rng.sample(range(len(labels)), rng.randint(1, 2)):
            labels[row], columns[table.label][row] = "", rng.choice(["", " "])
    table.classes = list(labels)
    _save(path, table, order, columns, rng)
    return table


def _fits(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _spelled(label: str, rng: random.Random, vary: bool) -> str:
    """Return a class's name, sometimes in another spelling."""
    if not vary or rng.random() < 0.7:
        return label
    return rng.choice([f"{label} ", f"{label}  ", unicodedata.normalize("NFC", label)])


def _numbers(
    kind: str, count: int, decimal: str, thousands: str, rng: random.Random
) -> tuple[list[float | None], list[object]]:
    values: list[float | None] = []
    cells: list[object] = []
    missing = rng.choice(["", "NA", "nan", "N/A"])
    for row in range(count):
        if row > 1 and rng.random() < 0.08:
            values.append(None)
            cells.append(missing)
            continue
        value = rng.randint(-3000, 2_000_000) if kind == "integer" else round(rng.uniform(-2e4, 2e4), 2)
        value = round(rng.uniform(0, 100), 1) if kind == "percent" else value
        # The first rows settle which mark is which: 1234.5 and 1,234,567.
        value = {0: 1_234_567, 1: -25}.get(row, value) if kind == "integer" else {0: 0.25}.get(row, value)
        text = f"{value:,}" if kind != "percent" else f"{value}"
        text = text.replace(",", "\0").replace(".", decimal).replace("\0", thousands)
        values.append(float(value) / (100.0 if kind == "percent" else 1.0))
        cells.append(text + ("%" if kind == "percent" else ""))
    return values, cells


def _save(path: Path, table: Written, order: list[str], columns: dict[str, list[object]], rng: random.Random) -> None:
    dialect, end = table.dialect, str(table.dialect["end"])
    quoting = {"minimal": csv.QUOTE_MINIMAL, "all": csv.QUOTE_ALL, "nonnumeric": csv.QUOTE_NONNUMERIC}
    text = io.StringIO(newline="")
    writer = csv.writer(
        text,
        delimiter=str(dialect["sep"]),
        lineterminator=end,
        quoting=quoting[str(dialect["quoting"])],
        doublequote=not dialect["escape"],
        escapechar="\\" if dialect["escape"] else None,
    )
    more = [""] if dialect["trailing"] and not dialect["row_names"] else []
    first = [""] if dialect["row_names"] and rng.random() < 0.5 else []
    writer.writerow([*first, *order, *more])
    written: list[str | None] = []
    for row in range(len(table.classes)):
        if dialect["blank_lines"] and rng.random() < 0.1:
            text.write(end)
        cells = [columns[name][row] for name in order]
        if dialect["row_names"]:
            cells.insert(0, str(row + 1))
        if dialect["ragged"] and row > 1 and rng.random() < 0.1:
            writer.writerow([*cells, *more, "surplus"] if rng.random() < 0.5 else cells[:-1] or [""])
            written.append(None)
        else:
            writer.writerow([*cells, *more])
            written.append(table.classes[row])
    table.classes = written
    content = text.getvalue()
    if end == "\r":  # csv.writer does not quote a line feed there
        content = content.replace("\n", " ")
        table.classes = [name and name.replace("\n", " ") for name in table.classes]
    content = content if dialect["last_end"] else content.removesuffix(end)
    if dialect["declared"]:
        content = f"sep={dialect['sep']}{end}{content}"
    path.write_bytes(content.encode(str(dialect["encoding"])))


def check(path: Path, table: Written) -> str:
    """Return "" if a table is read as it was written, else what went wrong."""
    try:
        read = prepare_table(path, table.label, TableOptions(columns=ColumnOptions(keep=list(table.numbers))))
    except EmphasisError as error:
        return f"refused: {error}"
    except Exception:
        return f"crashed: {traceback.format_exc()}"
    counts = {
        kind: sum(f.count for f in read.report.findings if f.kind == kind) for kind in ("ragged rows", "unlabeled")
    }
    ragged = sum(name is None for name in table.classes)
    unlabeled = sum(name == "" for name in table.classes)
    total = len(table.classes)
    if (read.report.rows, counts["ragged rows"], counts["unlabeled"]) != (total, ragged, unlabeled):
        return f"rows: {total} with {ragged} ragged and {unlabeled} unlabeled were read as {read.report.rows}, {counts}"
    expected = [row for row, name in enumerate(table.classes) if name]
    if read.rows.tolist() != expected or read.report.used != len(expected):
        return f"rows: {expected} are read as {read.rows.tolist()}"
    for row, code in zip(expected, read.given, strict=True):
        if _key(read.classes[code]) != _key(str(table.classes[row])):
            return f"class: row {row} is {table.classes[row]!r}, read as {read.classes[code]!r}"
    if len(set(map(_key, read.classes))) != len({_key(str(table.classes[row])) for row in expected}):
        return f"class: {read.classes}"
    for name, values in table.numbers.items():
        known = [values[row] for row in expected]
        if any(value is not None for value in known) and str(read.frame[name].dtype) not in ("int64", "float64"):
            return f"number: {name!r} is read as {read.frame[name].dtype}"
        for value, got in zip(known, read.frame[name], strict=True):
            if (value is None) != (got != got) or (
                value is not None and abs(value - got) > 1e-9 * max(abs(value), 1.0)
            ):
                return f"number: {value} in {name!r} is read as {got}"
    for name, days in table.dates.items():
        if [days[row] for row in expected] != [date.date() for date in read.frame[name]]:
            return f"date: {name!r} is read as {read.frame[name].tolist()[:3]}"
    return ""


def _key(name: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", name).split())


def fuzz(tables: int, seed: int = 0) -> tuple[Counter[str], list[str]]:
    """Return how many tables ended in which way, and a description of each that did not pass."""
    outcomes: Counter[str] = Counter()
    failures = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        for number in range(tables):
            table = write(path, random.Random(f"{seed}-{number}"))
            problem = check(path, table)
            outcomes[problem.partition(":")[0] or "passed"] += 1
            if problem:
                failures.append(f"table {number}, {table.dialect}: {problem}")
    return outcomes, failures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    start = time.perf_counter()
    outcomes, failures = fuzz(options.tables, options.seed)
    seconds = time.perf_counter() - start
    print("\n".join(failures))
    result = {
        "tables": options.tables,
        "seed": options.seed,
        "outcomes": dict(outcomes),
        "seconds": round(seconds, 1),
        "emphasis": emphasis.__version__,
        "failures": failures,
    }
    print(json.dumps({name: value for name, value in result.items() if name != "failures"}))
    if options.out:
        options.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
