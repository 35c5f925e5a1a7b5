"""Conversion of texts to dates."""

from __future__ import annotations

from typing import Any

from emphasis.datasets.table_numbers import all_match

ISO = "ISO8601"
_TIMES = {"": "", "%H:%M": "[0-9]{1,2}:[0-9]{2}", "%H:%M:%S": "[0-9]{1,2}:[0-9]{2}:[0-9]{2}"}
_DAYS = {
    "%d.%m.%Y": r"[0-9]{1,2}\.[0-9]{1,2}\.[0-9]{4}",
    "%d/%m/%Y": "[0-9]{1,2}/[0-9]{1,2}/[0-9]{4}",
    "%m/%d/%Y": "[0-9]{1,2}/[0-9]{1,2}/[0-9]{4}",
    "%d-%m-%Y": "[0-9]{1,2}-[0-9]{1,2}-[0-9]{4}",
    "%m-%d-%Y": "[0-9]{1,2}-[0-9]{1,2}-[0-9]{4}",
    "%d.%m.%y": r"[0-9]{1,2}\.[0-9]{1,2}\.[0-9]{2}",
    "%d/%m/%y": "[0-9]{1,2}/[0-9]{1,2}/[0-9]{2}",
    "%m/%d/%y": "[0-9]{1,2}/[0-9]{1,2}/[0-9]{2}",
    "%Y/%m/%d": "[0-9]{4}/[0-9]{1,2}/[0-9]{1,2}",
    "%Y.%m.%d": r"[0-9]{4}\.[0-9]{1,2}\.[0-9]{1,2}",
    "%d %b %Y": "[0-9]{1,2} [A-Za-z]{3} [0-9]{4}",
    "%d-%b-%Y": "[0-9]{1,2}-[A-Za-z]{3}-[0-9]{4}",
    "%b %d, %Y": "[A-Za-z]{3} [0-9]{1,2}, [0-9]{4}",
    "%d %B %Y": "[0-9]{1,2} [A-Za-z]{3,9} [0-9]{4}",
    "%B %d, %Y": "[A-Za-z]{3,9} [0-9]{1,2}, [0-9]{4}",
}
_ISO = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]+)?)?(?:Z| ?[+-][0-9]{2}:?[0-9]{2})?)?$"
)


def dates_of_text(texts: Any, sep: str = ",") -> tuple[Any, str, bool] | None:
    """Return the dates of a pyarrow column of texts, their format, and whether day and month could be exchanged.

    Args:
        texts: Texts; null where a date is missing.
        sep: Separator of the cells of the file. With a semicolon, 03/04/2020 is in April, as in most of Europe,
            otherwise in March.

    Returns:
        A pandas column without time zones and the format of `parsed`; None if a text is not a date.
    """
    if texts.null_count == len(texts):
        return None
    column = None
    if all_match(texts, _ISO):
        column = texts.to_pandas()
        dates = parsed(column, ISO)
        return (dates, ISO, False) if _complete(dates, column) else None
    candidates = []
    for day, day_pattern in _DAYS.items():
        for time, time_pattern in _TIMES.items():
            if all_match(texts, rf"^{day_pattern}{' ' if time else ''}{time_pattern}$"):
                column = texts.to_pandas() if column is None else column
                form = f"{day} {time}".strip()
                dates = parsed(column, form)
                if _complete(dates, column):
                    candidates.append((dates, form))
    if not candidates:
        return None
    month_first = [pair for pair in candidates if pair[1].startswith("%m/")]
    dates, form = month_first[0] if month_first and sep != ";" else candidates[0]
    return dates, form, len(candidates) > 1 and not bool((candidates[0][0].dropna() == candidates[1][0].dropna()).all())


def parsed(column: Any, form: str) -> Any:
    """Return a pandas column of texts as dates without time zones, NaT where a text is not a date of this format.

    Args:
        column: Texts, or missing values.
        form: Format of `datetime.strptime`, or "ISO8601".
    """
    import pandas as pd

    dates = pd.to_datetime(column, format=form, errors="coerce", utc=form == ISO)
    return dates.dt.tz_localize(None) if dates.dt.tz is not None else dates


def _complete(dates: Any, column: Any) -> bool:
    return bool((dates.notna() | column.isna()).all())
