"""Reports of a run: found by name, read from its folder, and written as text, CSV, figures and a page.

A report as text or CSV imports neither matplotlib nor torch: what draws and what audits is imported where it is used.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from emphasis.experiments.reports.ranking import rank, rank_tables, ranks_csv, verdict
from emphasis.experiments.reports.summary import Entry, Summary, findings, summarize
from emphasis.experiments.reports.table import caption, csv_text, result_tables
from emphasis.experiments.runs.store import (
    CELLS,
    FIGURE_FILE,
    RANKS,
    REPORT,
    RESULTS,
    RUN,
    SUSPECTS,
    TABLE,
    FolderError,
    read_rows,
    rows_of_recipe,
    stored_recipe,
    writing,
)
from emphasis.files import write_text
from emphasis.rich_text import plain

if TYPE_CHECKING:
    from emphasis.experiments.studies.audit_result import Audit

PLACES = ("runs", "results")
FORMATS = ("text", "csv", "html")


def find_folder(name: str) -> Path:
    """Return the folder of a run: `name` itself if it holds a run, else runs/NAME or results/NAME.

    Raises:
        FolderError: None of them holds a run.
    """
    candidates = [Path(name), *(Path(place) / name for place in PLACES)]
    for folder in candidates:
        if (folder / RUN).is_file():
            return folder
    searched = ", ".join(str(folder) for folder in candidates)
    raise FolderError(f"no results of {name!r}; looked for {RUN} in {searched}; 'emphasis run {name}' makes them")


def read_summary(folder: Path) -> Summary:
    """Return the results in `folder`, read from the files of its jobs if there are any, else from results.jsonl.

    Raises:
        FolderError: The folder holds no run, or a damaged one.
        RecipeError: Its run.json is of another version.
    """
    recipe = stored_recipe(folder)
    if any((folder / CELLS).glob("[!.]*.jsonl")):
        return summarize(recipe, rows_of_recipe(folder, recipe))
    return summarize(recipe, read_rows(folder / RESULTS) if (folder / RESULTS).exists() else [])


def histograms_of(folder: Path) -> dict[str, tuple[list[int], list[int]]]:
    """Return the histograms of the final p of correctly and of wrongly labeled examples, summed over the seeds.

    The keys name condition and method.
    """
    histograms: dict[str, tuple[list[int], list[int]]] = {}
    for entry in read_summary(folder).entries:
        if not entry.rows:
            continue
        name = ": ".join(filter(None, (entry.cell.condition, entry.cell.method)))
        clean, noisy = (
            [sum(counts) for counts in zip(*(row["p_histogram"][side] for row in entry.rows), strict=True)]
            for side in ("clean", "noisy")
        )
        histograms[name] = clean, noisy
    return histograms


def render(summary: Summary, kind: str, width: int = 100) -> str:
    """Return the report as one text: "text", "csv" or "html"."""
    if kind == "csv":
        return csv_text(summary)
    if kind == "html":
        from emphasis.experiments.reports.recipe_figures import draw
        from emphasis.experiments.reports.run_page import page

        return page(summary, draw(summary))
    console = Console(width=width, no_color=True, force_terminal=False)
    with console.capture() as captured:
        print_report(summary, console)
    return captured.get()


def write_report(folder: Path, summary: Summary, root: Path | None = None) -> list[str]:
    """Write table.csv, the figures and report.html into `folder`, and return their names.

    Figures of an earlier report that this one does not have are removed. If the networks recorded their training, the
    labels that look wrong to the best DM are written to suspects/.

    Args:
        folder: The run's folder.
        summary: The run's results.
        root: The folder of data sets, for the page of suspect labels.
    """
    from emphasis.diagnostics.plots.themes import add_dark_style
    from emphasis.experiments.reports.recipe_figures import draw
    from emphasis.experiments.reports.run_page import page

    drawings = draw(summary)
    pages = _write_suspects(folder, summary, root)
    ranked = rank(summary) if summary.recipe.compare else []
    with writing(folder):
        write_text(folder / TABLE, csv_text(summary))
        for name, chart in drawings.items():
            write_text(folder / name, add_dark_style(chart.wide))
        for path in folder.iterdir():
            if FIGURE_FILE.fullmatch(path.name) and path.name not in drawings:
                path.unlink(missing_ok=True)
        write_text(folder / REPORT, page(summary, drawings, [TABLE, *drawings, *pages]))
        if ranked:
            write_text(folder / RANKS, ranks_csv(ranked))
        else:
            (folder / RANKS).unlink(missing_ok=True)
    return [REPORT, TABLE, *([RANKS] if ranked else []), *drawings, *pages]


def _write_suspects(folder: Path, summary: Summary, root: Path | None) -> list[str]:
    """Write the audit of the best DM if there can be one, and return the names of its pages."""
    audit = audit_of_best(folder, summary, root)
    if audit is None:
        return []
    from emphasis.experiments.reports.audit_page import audit_page
    from emphasis.experiments.studies.audit_result import PAGE, write_audit

    write_audit(audit, folder / SUSPECTS, audit_page)
    return [f"{SUSPECTS}/{PAGE}"]


def audit_of_best(folder: Path, summary: Summary, root: Path | None = None) -> Audit | None:
    """Rank the labels by the first network of a run's best DM, in the first condition with a record of its training.

    Returns:
        None if no such network recorded its training (evaluation.trace), or its record or its data is missing.

    Raises:
        FolderError: The record is damaged.
    """
    for condition in summary.recipe.condition_names:
        best = summary.best(condition, dm=True)
        if best is not None and best.cell.evaluation.trace:
            row = best.rows[0]
            if not (folder / CELLS / f"{row['job']}.npz").exists():  # results kept apart from their run
                return None
            from emphasis.experiments.studies.audit import audit_of_network

            title = ": ".join(filter(None, (summary.recipe.title, condition, best.cell.method)))
            return audit_of_network(title, best.cell, row, folder, root)
    return None


def summary_json(folder: Path, summary: Summary) -> dict[str, Any]:
    """Return the results as plain data, with NaN where there is no value."""
    recipe = summary.recipe
    return {
        "folder": str(folder),
        "recipe": recipe.name,
        "title": recipe.title,
        "scaled": summary.scaled,
        "metric": recipe.metric,
        "baseline": recipe.baseline,
        "findings": findings(summary),
        "networks": summary.networks,
        "missing": summary.missing,
        "results": [_entry_json(summary, entry) for entry in summary.entries],
    }


def _entry_json(summary: Summary, entry: Entry) -> dict[str, Any]:
    gain = summary.gain(entry)
    return {
        "condition": entry.cell.condition,
        "method": entry.cell.method,
        "group": entry.cell.group,
        "outcome": entry.outcome,
        "n": len(entry.rows),
        "metrics": {metric: asdict(spread) for metric, spread in entry.values.items()},
        "paper": entry.paper,
        "gain": None if gain is None else asdict(gain),
    }


def print_report(summary: Summary, console: Console) -> None:
    """Print title and findings, which are what most readers need, and then the tables with their caption."""
    badge = " [scaled]" if summary.scaled else ""
    console.print(plain(summary.recipe.title + badge, style="bold"))
    ranked = rank(summary) if summary.recipe.compare else []
    for line in [*findings(summary), *verdict(summary, ranked)]:
        console.print(plain(line))
    for table in result_tables(summary, console.width):
        console.print()
        console.print(table)
    for group in rank_tables(summary, ranked) if ranked else []:
        console.print()
        console.print(group)
    console.print()
    console.print(plain(caption(summary), style="dim"))
