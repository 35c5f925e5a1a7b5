"""Parsing of numbers and truth values, with decimal commas, thousands separators, percent and marks for missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

MISSING = frozenset(
    {
        "",
        "#N/A",
        "#N/A N/A",
        "#NA",
        "-1.#IND",
        "-1.#QNAN",
        "-NaN",
        "-nan",
        "1.#IND",
        "1.#QNAN",
        "<NA>",
        "N/A",
        "NA",
        "NULL",
        "NaN",
        "None",
        "n/a",
        "nan",
        "null",
    }
)
"""Texts that mean "missing" in columns of features, as in pandas. In labels only the empty cell is missing."""

_SPACES = " \u00a0\u202f"
_THOUSANDS = {"": "", ",": ",", ".": r"\.", " ": f"[{_SPACES}]", "'": "['\u2019]"}
_FIRST = 64
_INFINITE = "inf|infinity"
_GROUP = r"[1-9][0-9]{0,2}(?:SEP[0-9]{3})+"
_PUNCTUATION = r"^[-?.*/_\x{2013}\x{2014}]+$"


@dataclass(frozen=True, order=True)
class NumberFormat:
    """The format of the numbers of a column.

    Attributes:
        decimal: Decimal mark, "." or ",".
        thousands: Separator of groups of three digits: "", ",", ".", " " (also a narrow or no-break space) or "'".
    """

    decimal: str = "."
    thousands: str = ""

    @property
    def pattern(self) -> str:
        """Regular expression for numbers in this format, without percent signs."""
        integer = "[0-9]+"
        if self.thousands:
            integer = f"(?:{_GROUP.replace('SEP', _THOUSANDS[self.thousands])}|{integer})"
        point = rf"\{self.decimal}"
        number = rf"(?:{integer}(?:{point}[0-9]*)?|{point}[0-9]+)(?:[eE][+-]?[0-9]+)?"
        return rf"^[+-]?(?:{number}|(?i:{_INFINITE}))$"


_FORMATS = tuple(
    NumberFormat(decimal, thousands) for decimal in (".", ",") for thousands in _THOUSANDS if thousands != decimal
)
_PLAIN = NumberFormat()


@dataclass(frozen=True, eq=False)
class Candidate:
    """A column of texts that are numbers.

    Attributes:
        texts: pyarrow column without percent signs and with plain minus signs, null where a number is missing.
        percent: pyarrow column of whether values have a percent sign; None if no value has.
        formats: All formats that fit all numbers.
        marks: Texts that were read as missing because they are punctuation among numbers, such as "?", with counts.
    """

    texts: Any
    percent: Any | None
    formats: tuple[NumberFormat, ...]
    marks: dict[str, int]

    @property
    def decimals(self) -> set[str]:
        """The possible decimal marks."""
        return {form.decimal for form in self.formats}


def cleaned(column: Any, missing: Sequence[str]) -> Any:
    """Return a pyarrow column of texts without surrounding blanks, null where a mark means "missing"."""
    import pyarrow as pa
    import pyarrow.compute as pc

    stripped = pc.utf8_trim_whitespace(column)
    absent = pc.is_in(stripped, value_set=pa.array(sorted(MISSING | set(missing)), pa.string()))
    return pc.if_else(absent, pa.scalar(None, pa.string()), stripped)


def number_candidate(texts: Any) -> Candidate | None:
    """Return the column of `cleaned` as numbers of unknown format; None if it holds other texts."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if texts.null_count == len(texts):
        return None
    is_number = pc.match_substring_regex(texts, r"[0-9]|(?i:inf)")
    marks: dict[str, int] = {}
    if not _all(is_number):
        odd = pc.filter(texts, pc.invert(pc.fill_null(is_number, True)))
        if not _all(pc.match_substring_regex(odd, _PUNCTUATION)) or len(odd) + texts.null_count == len(texts):
            return None
        marks = {item["values"]: item["counts"] for item in pc.value_counts(odd).to_pylist()}
        texts = pc.if_else(is_number, texts, pa.scalar(None, pa.string()))
    if not all_match(texts, rf"^[-+.,'\x{{2019}}\x{{2212}}{_SPACES}0-9eE%infyINFTt]+$"):
        return None
    texts = pc.replace_substring(texts, "\u2212", "-")
    percent = pc.match_substring(texts, "%")
    if any_percent := bool(pc.any(percent).as_py()):
        texts = pc.replace_substring_regex(texts, rf"[{_SPACES}]*%$", "")
    formats = _FORMATS
    if not all_match(texts, "^[+-]?[0-9]+$"):
        formats = tuple(form for form in _FORMATS if all_match(texts, form.pattern))
    return Candidate(texts, percent if any_percent else None, formats, marks) if formats else None


def file_decimal(candidates: Sequence[Candidate]) -> str:
    """Return the decimal mark of the columns that are unambiguous; "" if there are none, or they differ."""
    marks: set[str] = set().union(*(c.decimals for c in candidates if len(c.decimals) == 1))
    return marks.pop() if len(marks) == 1 else ""


def chosen_format(candidate: Candidate, decimal: str, sep: str) -> NumberFormat:
    """Return the format of the numbers of a column.

    1,234 and 1.234 are ambiguous. They are read with the decimal mark of the other numbers in the file; if this is not
    known, as 1234 where cells are separated by a comma, a tab or a bar, and 1,234 as 1.234 where they are separated by
    semicolons, which are used where the comma is the decimal mark.

    Args:
        candidate: Column of numbers.
        decimal: Decimal mark of the file; "" if it is unknown.
        sep: Separator of cells.
    """
    formats = candidate.formats
    if _PLAIN in formats and NumberFormat(",", "") in formats:  # whole numbers
        return _PLAIN
    if not decimal:
        if _PLAIN in formats:
            return _PLAIN
        decimal = "," if sep == ";" else "."
    return next((form for form in formats if form.decimal == decimal), formats[0])


def numbers_of(candidate: Candidate, form: NumberFormat) -> Any:
    """Return a pandas column of numbers: int64 if all are whole numbers, otherwise float64, NaN where missing."""
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = candidate.texts
    if form.thousands:
        texts = pc.replace_substring_regex(texts, _THOUSANDS[form.thousands], "")
    if form.decimal == ",":
        texts = pc.replace_substring(texts, ",", ".")
    texts = pc.replace_substring_regex(texts, r"^\+", "")
    if not texts.null_count and candidate.percent is None and all_match(texts, r"^-?[0-9]{1,18}$"):
        return pc.cast(texts, pa.int64()).to_pandas()
    texts = pc.replace_substring_regex(pc.replace_substring_regex(texts, r"\.$", ""), r"\.([eE])", r"\1")
    values = pc.cast(texts, pa.float64())
    if candidate.percent is not None:
        values = pc.if_else(candidate.percent, pc.divide(values, 100.0), values)
    return values.to_pandas().astype("float64")


def truth_values(texts: Any) -> Any | None:
    """Return the column of `cleaned` as truth values; None if it holds other texts than True and False."""
    import pyarrow.compute as pc

    if texts.null_count == len(texts) or not all_match(texts, "^(?:True|TRUE|true|False|FALSE|false)$"):
        return None
    values = pc.equal(pc.utf8_lower(texts), "true")
    return values.to_pandas().astype("boolean" if texts.null_count else "bool")


def all_match(texts: Any, pattern: str) -> bool:
    """Return whether all texts of a pyarrow column match; the first texts are tested first, which saves time."""
    import pyarrow.compute as pc

    first = texts.slice(0, _FIRST)
    return all(_all(pc.match_substring_regex(part, pattern)) for part in (first, texts))


def _all(condition: Any) -> bool:
    """Return whether a condition holds wherever there is a value."""
    import pyarrow.compute as pc

    return pc.all(condition, min_count=0).as_py() is not False
