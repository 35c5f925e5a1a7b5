"""The one place where text of the user's enters rich: names, labels and paths are shown as they are, never obeyed.

`[bold]` in a label is no markup here, and its control characters, which a terminal would act upon, are written out.
"""

from __future__ import annotations

from typing import Any

from rich.progress import ProgressColumn, Task
from rich.table import Table
from rich.text import Text

from emphasis.texts import visible


def plain(text: str, style: str = "") -> Text:
    """Return a text for rich that says what it says."""
    return Text(visible(text), style=style)


class PlainTable(Table):
    """A table whose title, headings and cells are plain where they are given as str."""

    def __init__(self, *args: Any, title: str | Text | None = None, **options: Any) -> None:
        super().__init__(*args, title=_plain(title, "table.title"), **options)

    def add_column(self, header: Any = "", *args: Any, **options: Any) -> None:
        """Add a column."""
        super().add_column(_plain(header), *args, **options)

    def add_row(self, *cells: Any, **options: Any) -> None:
        """Add a row."""
        super().add_row(*map(_plain, cells), **options)


class PlainColumn(ProgressColumn):
    """A column of a progress bar, such as "{task.description}"."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form

    def render(self, task: Task) -> Text:
        """Return what it shows of a task."""
        return plain(self.form.format(task=task), "progress.description")


def _plain(value: Any, style: str = "") -> Any:
    return plain(value, style) if isinstance(value, str) else value
