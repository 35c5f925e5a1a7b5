"""Post-processing of every page: a table of contents, and a scrolling box and a CSV file for each table.

The HTML comes from this package's templates, so its tables are not nested and its attributes are in double quotes;
texts of users are escaped in it.
"""

from __future__ import annotations

import base64
import csv
import html
import io
import re
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any

from markupsafe import Markup

_PARTS = re.compile(
    r'<h(?P<level>[23])(?: id="(?P<id>[^"]*)")?>(?P<heading>.*?)</h(?P=level)>'
    r'|(?:<div class="scroll">\s*)?<table>(?P<table>.*?)</table>(?:\s*</div>)?',
    re.DOTALL,
)
_TAG = re.compile(r"<[^>]*>")
_ROW_NAME = re.compile(r"<tr><td((?: class=\"[^\"]*\")?)>(.*?)</td>", re.DOTALL)
_MOST_CSV = 2_000_000  # characters; a larger table is in a file beside the page


@dataclass(frozen=True)
class Document:
    """The content of a page.

    Attributes:
        body: The content as HTML.
        contents: Identifier and text of each heading of the second level.
    """

    body: Markup
    contents: tuple[tuple[str, str], ...]


def finish(content: str) -> Document:
    """Return a page's content with identifiers at its headings, and with each table in a box with a link to its CSV."""
    taken: set[str] = set()
    contents: list[tuple[str, str]] = []
    heading = "Table"

    def replace(match: re.Match[str]) -> str:
        nonlocal heading
        if match["table"] is not None:
            return _table(match["table"], heading, _unused(_slug(heading), taken))
        heading = _text(match["heading"])
        name = _unused(match["id"] or _slug(heading), taken)
        if match["level"] == "2":
            contents.append((name, heading))
        return f'<h{match["level"]} id="{name}">{match["heading"]}</h{match["level"]}>'

    body = _PARTS.sub(replace, content).replace("<pre>", '<pre tabindex="0">')  # scrolling boxes can be focused
    return Document(Markup(body), tuple(contents))


def _table(inner: str, title: str, name: str) -> str:
    """Return a table in a scrolling box, with a link to the table as CSV below it."""
    label = html.escape(title, quote=True)
    inner = _ROW_NAME.sub(r'<tr><th scope="row"\1>\2</th>', inner)
    box = f'<div class="scroll" role="region" aria-label="Table: {label}" tabindex="0"><table>{inner}</table></div>'
    text = csv_text(inner)
    if len(text) > _MOST_CSV:
        return box
    data = base64.b64encode(("\ufeff" + text).encode()).decode(
        "ascii"
    )  # the byte order mark tells spreadsheets the encoding
    link = f'<a download="{name}.csv" href="data:text/csv;charset=utf-8;base64,{data}">Table as CSV'
    return f'{box}\n<p class="download">{link}<span class="hidden">: {label}</span></a></p>'


def csv_text(table: str) -> str:
    """Return the rows of an HTML table as CSV; headings of groups of rows become the first column."""
    reader = _TableReader()
    reader.feed(table)
    has_groups = any(group for group, _ in reader.rows)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\r\n")
    for number, (group, cells) in enumerate(reader.rows):
        first = [] if not has_groups else ["Group" if number == 0 and reader.has_head else group]
        writer.writerow([*first, *cells])
    return file.getvalue()


class _TableReader(HTMLParser):
    """Collects the rows of a table with the heading of their group; an attribute data-value replaces a cell's text."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.rows: list[tuple[str, list[str]]] = []
        self.has_head = False
        self._group = ""
        self._cells: list[str] = []
        self._is_group = False
        self._value: str | None = None
        self._parts: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, Any]]) -> None:
        """Begin a row or a cell."""
        attributes = dict(attrs)
        if tag == "thead":
            self.has_head = True
        elif tag == "tr":
            self._cells, self._is_group = [], attributes.get("class") == "group"
        elif tag in ("td", "th"):
            self._parts, self._value = [], attributes.get("data-value")
        elif tag in ("small", "br") and self._parts:
            self._parts.append("; ")

    def handle_data(self, data: str) -> None:
        """Collect the text of a cell."""
        if self._parts is not None:
            self._parts.append(data)

    def handle_endtag(self, tag: str) -> None:
        """End a cell or a row."""
        if tag in ("td", "th") and self._parts is not None:
            text = " ".join("".join(self._parts).split()).replace(" ;", ";")
            self._cells.append(text if self._value is None else self._value)
            self._parts = None
        elif tag == "tr" and self._is_group:
            self._group = self._cells[0] if self._cells else ""
        elif tag == "tr":
            self.rows.append((self._group, self._cells))


def _text(fragment: str) -> str:
    """Return the text of HTML without tags; badges, such as "scaled", are left out."""
    without_badges = re.sub(r'<span class="badge">.*?</span>', "", fragment, flags=re.DOTALL)
    return " ".join(html.unescape(_TAG.sub("", without_badges)).split())


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "part"


def _unused(name: str, taken: set[str]) -> str:
    """Return a name that is not in `taken`, and add it."""
    number, candidate = 1, name
    while candidate in taken:
        number += 1
        candidate = f"{name}-{number}"
    taken.add(candidate)
    return candidate
