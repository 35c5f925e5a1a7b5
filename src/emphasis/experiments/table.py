"""The table of a run, for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from emphasis.experiments.summary import Summary


def results_table(summaries: Sequence[Summary], title: str, caption: str) -> Table:
    """Return the rich table: accuracies in percent as mean ± std over seeds, and what went wrong."""
    table = Table(
        title=title, caption=caption, title_justify="left", caption_justify="left", title_style="bold",
        box=box.SIMPLE_HEAD, padding=0,
    )  # fmt: skip
    table.add_column("Method", no_wrap=True)
    for heading in ("Best test", "Final test", "Fit noisy", "Fit true"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("Status", min_width=9)
    for number, summary in enumerate(summaries):
        bad = bool(summary.status)
        style = "red" if bad else "green" if summary.clearly_better else ""
        cells = summary.cells
        final = f"[{style}]{cells['final']}[/]" if style else cells["final"]
        next_group = number + 1 < len(summaries) and summaries[number + 1].group != summary.group
        table.add_row(
            summary.method,
            cells["best"],
            final,
            cells["fit_noisy"],
            cells["fit_true"],
            f"[red]{summary.status}[/]" if bad else "ok",
            end_section=next_group,
        )
    return table
