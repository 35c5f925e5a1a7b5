"""Reports of a folder: found by name, read from its lines, written as text, CSV, figures and a page."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from emphasis.experiments.reports.audit_page import audit_page
from emphasis.experiments.reports.ranking import rank, rank_tables, ranks_csv, verdict
from emphasis.experiments.reports.recipe_figures import draw
from emphasis.experiments.reports.run_page import page
from emphasis.experiments.reports.summary import Summary, findings, summarise
from emphasis.experiments.reports.table import caption, csv_text, result_tables
from emphasis.experiments.runs.store import (
    CELLS,
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
)  # fmt: skip
from emphasis.experiments.studies.audit import PAGE, Audit, audit_of_network, write_audit
from emphasis.files import replacing, write_text
from emphasis.rich_text import plain

PLACES = ("runs", "results")
FORMATS = ("text", "csv", "html")


def find_folder(name: str) -> Path:
    """Return the folder of a run: `name` itself if it is one, else runs/NAME or results/NAME.

    Raises:
        FolderError: None of them holds a run.
    """
    candidates = [Path(name), *(Path(place) / name for place in PLACES)]
    for folder in candidates:
        if (folder / RUN).is_file():
            return folder
    looked = ", ".join(str(folder) for folder in candidates)
    raise FolderError(f"no results of {name!r}; looked for {RUN} in {looked}; 'emphasis run {name}' makes them")


def read_summary(folder: Path) -> Summary:
    """Return what `folder` holds: from the lines of its jobs if they are there, else from results.jsonl alone.

    Raises:
        FolderError: It holds no run, or a damaged one.
        RecipeError: Its run.json is of another version.
    """
    recipe = stored_recipe(folder)
    if any((folder / CELLS).glob("[!.]*.jsonl")):
        return summarise(recipe, rows_of_recipe(folder, recipe))
    return summarise(recipe, read_rows(folder / RESULTS) if (folder / RESULTS).exists() else [])


def histograms_of(folder: Path) -> dict[str, tuple[list[int], list[int]]]:
    """Return, for each condition and method, the final p of rightly and wrongly labelled examples in equal bins.

    Those of all seeds together.
    """
    found: dict[str, tuple[list[int], list[int]]] = {}
    for entry in read_summary(folder).entries:
        parts = [[row["p_histogram"][name] for row in entry.rows] for name in ("clean", "noisy")]
        if entry.rows:
            clean, noisy = ([sum(counts) for counts in zip(*part, strict=True)] for part in parts)
            found[": ".join(filter(None, (entry.cell.condition, entry.cell.method)))] = clean, noisy
    return found


def render(summary: Summary, kind: str, width: int = 100) -> str:
    """Return the report as one text: "text", "csv" or "html"."""
    if kind == "csv":
        return csv_text(summary)
    if kind == "html":
        return page(summary, draw(summary))
    console = Console(width=width, no_color=True, force_terminal=False)
    with console.capture() as captured:
        print_report(summary, console)
    return captured.get()


def write_report(folder: Path, summary: Summary, root: Path | None = None) -> list[str]:
    """Write table.csv, the figures and report.html into `folder`; return their names.

    Figures of an earlier report that this one does not have are removed. If the networks kept a record of their
    training, which labels look wrong to the best DM is written to suspects/; `root` says where the data is.
    """
    drawings = draw(summary)
    suspects = audit_of_best(folder, summary, root)
    if suspects is not None:
        write_audit(suspects, folder / SUSPECTS, audit_page)
    pages = [f"{SUSPECTS}/{PAGE}"] if suspects is not None else []
    ranked = rank(summary) if summary.recipe.compare else []
    with writing(folder):
        write_text(folder / TABLE, csv_text(summary))
        for name, content in drawings.items():
            with replacing(folder / name) as partial:
                partial.write_bytes(content)
        for path in folder.glob("*.png"):
            if path.name not in drawings:
                path.unlink(missing_ok=True)
        write_text(folder / REPORT, page(summary, drawings, [TABLE, *drawings, *pages]))
        if ranked:
            write_text(folder / RANKS, ranks_csv(ranked))
        else:
            (folder / RANKS).unlink(missing_ok=True)
    return [REPORT, TABLE, *([RANKS] if ranked else []), *drawings, *pages]


def audit_of_best(folder: Path, summary: Summary, root: Path | None = None) -> Audit | None:
    """Rank the labels by the first network of a run's best DM, in the first condition that kept a record of one.

    None if no such network kept one (evaluation.trace), or it or its data is not there any more.

    Raises:
        FolderError: What it kept is damaged.
    """
    for condition in summary.recipe.condition_names:
        best = summary.best(condition, dm=True)
        if best is not None and best.cell.evaluation.trace:
            title = ": ".join(filter(None, (summary.recipe.title, condition, best.cell.method)))
            return audit_of_network(title, best.cell, best.rows[0], folder, root)
    return None


def print_report(summary: Summary, console: Console) -> None:
    """Print title, tables, what the numbers are, and the finding."""
    badge = " [scaled]" if summary.scaled else ""
    console.print(plain(summary.recipe.title + badge, style="bold"))
    for table in result_tables(summary, console.width):
        console.print()
        console.print(table)
    ranked = rank(summary) if summary.recipe.compare else []
    for group in rank_tables(summary, ranked) if ranked else []:
        console.print()
        console.print(group)
    console.print()
    console.print(plain(caption(summary), style="dim"))
    for line in [*findings(summary), *verdict(summary, ranked)]:
        console.print(plain(line))
