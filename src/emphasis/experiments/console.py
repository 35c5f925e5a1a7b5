"""A run as seen in the terminal: progress bar, table, finding, and where the files are."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from emphasis.experiments.recipe import Recipe
from emphasis.experiments.report import write_report
from emphasis.experiments.runner import run
from emphasis.experiments.store import CURVES_PNG, EMPHASIS_PNG, REPORT, RESULTS
from emphasis.experiments.summary import finding, summarise
from emphasis.experiments.table import results_table


def run_in_console(
    recipe: Recipe, folder: Path, *, threads: int, checkpoint_seconds: float, force: bool, show_progress: bool
) -> None:
    """Run `recipe`, write its figures and page, and print its table. See `runner.run` for the arguments."""
    console = Console()
    networks = len(recipe.methods) * len(recipe.seeds)
    console.print(f"[bold]{recipe.title}[/]: {len(recipe.methods)} methods x {len(recipe.seeds)} seeds = "
                  f"{networks} networks at once", highlight=False)  # fmt: skip
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("steps"), TimeElapsedColumn(),
               TextColumn("left"), TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=console, disable=not show_progress) as bar:
        task = bar.add_task("training", total=recipe.solver.iterations, visible=False)

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, visible=True)

        rows, probabilities = run(
            recipe,
            folder,
            threads=threads,
            checkpoint_seconds=checkpoint_seconds,
            force=force,
            progress=progress,
            say=lambda message: console.print(message, highlight=False, markup=False),
        )
    if not all((folder / name).exists() for name in (CURVES_PNG, EMPHASIS_PNG, REPORT)):
        write_report(folder, recipe, rows, probabilities)
    summaries = summarise(rows, recipe.baseline)
    first = rows[0]
    caption = (
        f"Percent; mean ± standard deviation over {first['n_seeds']} seeds; {first['n_train']} training examples, "
        f"{first['n_test']} test. Trained in {first['seconds']:.0f} s."
    )
    console.print(results_table(summaries, recipe.title, caption))
    console.print(finding(summaries, recipe.baseline), highlight=False)
    console.print(f"Written to {folder}: {REPORT}, {RESULTS}, {CURVES_PNG}, {EMPHASIS_PNG}", highlight=False)
