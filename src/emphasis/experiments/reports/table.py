"""The tables of a run for the terminal and as CSV. Tables that are too wide are split by columns, never cut."""

from __future__ import annotations

import csv
import io
import math
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich import box
from rich.console import Group
from rich.text import Text

from emphasis.experiments.reports.summary import METRICS, NOT_SCALED, Entry, Summary, metric_title, signed
from emphasis.rich_text import PlainTable, plain
from emphasis.texts import visible

_NAME_WIDTH = 24  # method names are wrapped to it, in characters as all widths here
_HEADING_WIDTH = 14
_STATUS_WIDTH = 9  # of "collapsed"
_GAP = 2  # between columns
CSV_COLUMNS = (
    "condition",
    "method",
    "group",
    "metric",
    "ours_mean",
    "ours_std",
    "n",
    "paper",
    "difference",
    "status",
    "outcome",
)


@dataclass(frozen=True)
class _Column:
    """A column of a table: its heading, and the lines and styles of each method's cell."""

    heading: str
    cells: dict[str, list[tuple[str, str]]]

    @property
    def width(self) -> int:
        texts = [line for lines in self.cells.values() for line, _ in lines]
        return max(map(len, [*texts, *textwrap.wrap(visible(self.heading), _HEADING_WIDTH)]), default=1)


def result_tables(summary: Summary, width: int) -> list[Group]:
    """Return the tables of a run with their titles, each at most `width` characters wide if a column fits at all.

    With one condition, the columns are metrics. With several, they are conditions, and there is one table for the
    recipe's metric and for each other metric of the paper.
    """
    recipe = summary.recipe
    if len(recipe.conditions) > 1:
        tables = []
        for metric in dict.fromkeys([recipe.metric, *recipe.paper]):
            columns = [_column(summary, name, metric, name) for name in recipe.condition_names]
            tables += _tables(summary, f"{metric_title(metric)} (%)", columns, width, summary.has_paper(metric))
        return tables
    condition = recipe.condition_names[0]
    with_paper = any(map(summary.has_paper, summary.metrics))

    def columns_of(failures: bool) -> list[_Column]:
        return [
            _column(
                summary,
                condition,
                metric,
                METRICS.get(metric, metric_title(metric)),
                details=metric == recipe.metric,
                failures=failures and metric == recipe.metric,
            )
            for metric in summary.metrics
        ]

    columns = columns_of(failures=False)
    room = width - _first_width(summary, with_paper) - sum(column.width + _GAP for column in columns) - _GAP
    if room >= _STATUS_WIDTH:
        columns.append(_statuses(summary, condition, min(room, 40)))
    else:
        columns = columns_of(failures=True)
    return _tables(summary, condition or "Results", columns, width, with_paper)


def caption(summary: Summary) -> str:
    """Return a sentence that explains the numbers in the tables."""
    sizes: dict[tuple[int, int], list[str]] = {}
    for entry in summary.entries:
        for row in entry.rows[:1]:
            here = sizes.setdefault((row["n_train"], row["n_test"]), [])
            here += [entry.cell.condition] if entry.cell.condition not in here else []
    seeds = summary.recipe.seeds
    text = "Percent" if seeds == 1 else "Percent; mean ± standard deviation"
    text += f"; n = {seeds} {'seed' if seeds == 1 else 'seeds'} unless a cell says otherwise"
    for (n_train, n_test), conditions in sizes.items():
        where = f" ({', '.join(conditions)})" if len(sizes) > 1 else ""
        text += f"; {n_train:,} training examples, {n_test:,} test{where}"
    return f"{text}. {'Scaled run.' if summary.scaled else ''}".rstrip()


def csv_text(summary: Summary) -> str:
    """Return one line per condition, method and metric, in percent, and lines for the paper's rows that are not run.

    In a scaled run, the heading says that the paper's values are at full scale, and there are no differences.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([NOT_SCALED if summary.scaled and name == "paper" else name for name in CSV_COLUMNS])
    status = summary.recipe.status
    for entry in summary.entries:
        cell = entry.cell
        for metric in summary.metrics:
            ours = entry.values[metric]
            writer.writerow(
                [
                    cell.condition,
                    cell.method,
                    cell.group,
                    metric,
                    _cell(100 * ours.mean),
                    _cell(100 * ours.std),
                    ours.n,
                    _cell(entry.paper[metric]),
                    _cell(summary.difference(entry, metric)),
                    status,
                    entry.outcome or ("learned" if entry.rows else "not trained yet"),
                ]
            )
    for condition in summary.recipe.condition_names:
        for row in summary.recipe.reported:
            for metric in filter(summary.has_paper, summary.metrics):
                quoted = _cell(summary.paper(condition, row.name, metric))
                if quoted:
                    writer.writerow([condition, row.name, row.group, metric, "", "", 0, quoted, "", status, "not run"])
    return file.getvalue()


def _cell(value: float) -> str:
    return "" if math.isnan(value) else f"{round(value, 3) + 0.0:.3f}"


def paper_text(summary: Summary, entry: Entry, metric: str) -> str:
    """Return the paper's value, its standard deviation if known, and the difference in brackets; "" without a value."""
    if math.isnan(entry.paper[metric]):
        return ""
    text = f"{entry.paper[metric]:.1f}"
    if metric == summary.recipe.metric and not math.isnan(entry.paper_std):
        text += f" ± {entry.paper_std:.1f}"
    difference = summary.difference(entry, metric)
    return text if math.isnan(difference) else f"{text} ({signed(difference)})"


def short_outcome(entry: Entry) -> str:
    """Return the outcome in short, such as "collapsed 2/5"."""
    return re.sub(r" \((\d+) of (\d+) seeds?\)", r" \1/\2", entry.outcome)


def _column(
    summary: Summary, condition: str, metric: str, heading: str, *, details: bool = True, failures: bool = True
) -> _Column:
    """Return the column of a metric, with the number of seeds (`details`) and the failures (`failures`)."""
    cells: dict[str, list[tuple[str, str]]] = {}
    best = summary.best(condition)
    for entry in summary.of(condition):
        ours = entry.values[metric]
        style = "red" if entry.outcome else "bold green" if entry is best and metric == summary.recipe.metric else ""
        lines = [(str(ours), style)]
        if summary.has_paper(metric) and (paper := paper_text(summary, entry, metric)):
            lines += [(line, "dim") for line in textwrap.wrap(paper, _HEADING_WIDTH)]
        if details and ours.n not in (0, summary.recipe.seeds):
            lines.append((f"n = {ours.n}", "dim"))
        if failures and entry.outcome:
            parts = short_outcome(entry).split("; ")
            lines += [(line, "red") for part in parts for line in textwrap.wrap(part, _HEADING_WIDTH)]
        cells[entry.cell.method] = lines
    for row in summary.recipe.reported:
        quoted = summary.paper(condition, row.name, metric)
        cells[row.name] = [] if math.isnan(quoted) else [("not run", "dim"), (f"{quoted:.1f}", "dim")]
    return _Column(heading, cells)


def _statuses(summary: Summary, condition: str, width: int) -> _Column:
    cells = {
        entry.cell.method: [
            (line, "red" if entry.outcome else "")
            for part in entry.status.split("; ")
            for line in textwrap.wrap(part, width)
        ]
        for entry in summary.of(condition)
    }
    return _Column("Status", cells)


def _head(summary: Summary, with_paper: bool) -> list[str]:
    """Return the heading of the first column, which explains the cells."""
    texts = ["Method"]
    if with_paper:
        texts += ["ours ± std, and below it", NOT_SCALED if summary.scaled else "paper (difference)"]
    return [line for text in texts for line in textwrap.wrap(text, _NAME_WIDTH)]


def _names(summary: Summary) -> dict[str, list[str]]:
    """Return every row's name, wrapped into lines."""
    recipe = summary.recipe
    names = [*(method.name for method in recipe.methods), *(row.name for row in recipe.reported)]
    return {name: textwrap.wrap(visible(name), _NAME_WIDTH) or [""] for name in names}


def _first_width(summary: Summary, with_paper: bool) -> int:
    lines = [line for lines in _names(summary).values() for line in lines]
    return max(map(len, [*_head(summary, with_paper), *lines]))


def _tables(summary: Summary, title: str, columns: Sequence[_Column], width: int, with_paper: bool) -> list[Group]:
    """Return the columns as tables that fit the width, with their titles."""
    first = _first_width(summary, with_paper)
    blocks: list[list[_Column]] = []
    room = 0
    for column in columns:
        room -= column.width + _GAP
        if not blocks or room < 0:
            blocks.append([])
            room = width - first - column.width - _GAP
        blocks[-1].append(column)
    groups = []
    for number, block in enumerate(blocks):
        part = f", {number + 1} of {len(blocks)}" if len(blocks) > 1 else ""
        scaled = ", scaled" if summary.scaled else ""
        table = PlainTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
        table.add_column(plain("\n".join(_head(summary, with_paper))), width=first, no_wrap=True)
        for column in block:
            heading = plain("\n".join(textwrap.wrap(visible(column.heading), _HEADING_WIDTH)))
            justify: Literal["left", "right"] = "left" if column.heading == "Status" else "right"
            table.add_column(heading, width=column.width, no_wrap=True, justify=justify)
        _fill(table, summary, block)
        groups.append(Group(plain(f"{title}{scaled}{part}", style="bold"), table))
    return groups


def _fill(table: PlainTable, summary: Summary, block: Sequence[_Column]) -> None:
    quoted: dict[str, list[str]] = {}
    for row in summary.recipe.reported:
        quoted.setdefault(row.group, []).append(row.name)
    names = _names(summary)
    for group in [*summary.groups.values(), *quoted.values()]:
        for name in group:
            cells = [_styled(column.cells.get(name, [])) for column in block]
            table.add_row(plain("\n".join(names[name])), *cells, end_section=name == group[-1])


def _styled(lines: Sequence[tuple[str, str]]) -> Text:
    return Text("\n").join(plain(line, style=style) for line, style in lines)
