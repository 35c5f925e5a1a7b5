"""Rich texts, tables and columns that show names, labels and paths literally.

Text from data must enter rich through this module alone: `[bold]` in a label is not markup, and control characters,
which a terminal would interpret, are escaped.
"""

from __future__ import annotations

from typing import Any

from rich.progress import ProgressColumn, Task
from rich.table import Table
from rich.text import Text

from emphasis.texts import visible


def plain(text: str, style: str = "") -> Text:
    """Return a rich text that shows `text` literally."""
    return Text(visible(text), style=style)


class PlainTable(Table):
    """A table that shows a title, headings and cells of type str literally."""

    def __init__(self, *args: Any, title: str | Text | None = None, **options: Any) -> None:
        super().__init__(*args, title=_plain(title, "table.title"), **options)

    def add_column(self, header: Any = "", *args: Any, **options: Any) -> None:
        """Add a column."""
        super().add_column(_plain(header), *args, **options)

    def add_row(self, *cells: Any, **options: Any) -> None:
        """Add a row."""
        super().add_row(*map(_plain, cells), **options)


class PlainColumn(ProgressColumn):
    """A column of a progress bar with a format such as "{task.description}"."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form

    def render(self, task: Task) -> Text:
        """Return the text for a task."""
        return plain(self.form.format(task=task), "progress.description")


def _plain(value: Any, style: str = "") -> Any:
    return plain(value, style) if isinstance(value, str) else value
