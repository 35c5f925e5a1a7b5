"""A run as seen in the terminal: progress bars, tables, finding, and where the files are; and the list of recipes."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from emphasis import process
from emphasis.errors import EmphasisOSError
from emphasis.experiments.recipes.convert import RecipeError
from emphasis.experiments.recipes.load import load_recipe, recipe_names
from emphasis.experiments.recipes.recipe import Recipe
from emphasis.experiments.reports.report import print_report, read_summary, write_report
from emphasis.experiments.reports.summary import percent
from emphasis.experiments.runs.jobs import Job
from emphasis.experiments.runs.own_code import with_sources
from emphasis.experiments.runs.pool import JobError, UnforeseenJobError
from emphasis.experiments.runs.runner import run
from emphasis.experiments.runs.store import RESULTS, SEARCH, finished_rows
from emphasis.experiments.studies.search import Vary, describe, final_accuracy, search
from emphasis.rich_text import PlainColumn, PlainTable, plain
from emphasis.training.loop import number_of_ranks
from emphasis.training.settings import Execution

_SHOWN = 10  # trials of a search


def run_in_console(
    recipe: Recipe,
    folder: Path,
    *,
    root: Path | None,
    download: bool,
    execution: Execution,
    workers: int | None,
    threads: int | None,
    checkpoint_seconds: float,
    force: bool,
    show_progress: bool,
) -> None:
    """Run `recipe`, write its report, and print it. See `runner.run` for the arguments.

    Raises:
        JobError, UnforeseenJobError: A job failed; what the others found is written and shown first.
        EmphasisOSError: The folder cannot be written to; what was found is shown first.
    """
    first = number_of_ranks(execution) == 1 or process.is_first()
    console = Console(quiet=not first)
    networks = sum(1 for _ in recipe.cells())
    several = f"{len(recipe.conditions)} conditions, " if len(recipe.conditions) > 1 else ""
    about = f": {several}{len(recipe.methods)} methods, {recipe.seeds} seeds: {networks} networks"
    console.print(plain(recipe.title, "bold") + plain(about))
    failure: JobError | UnforeseenJobError | EmphasisOSError | None = None
    recipe = with_sources(recipe)
    began = time.monotonic()
    with _Bars(recipe, folder, console, show_progress) as bars:
        try:
            run(
                recipe, folder, root=root, download=download, execution=execution, threads=threads, force=force,
                workers=workers or default_workers(execution), checkpoint_seconds=checkpoint_seconds,
                progress=bars.update, loading=bars.load, say=lambda message: console.print(plain(message)),
            )  # fmt: skip
        except (JobError, UnforeseenJobError) as error:
            failure = error
    console.print(f"took {time.monotonic() - began:.0f} s, report aside", highlight=False)
    summary = read_summary(folder)
    if first and any(entry.rows for entry in summary.entries):
        try:
            written = [RESULTS, *write_report(folder, summary, root)]
        except EmphasisOSError as error:  # what was found can be shown all the same
            failure, written = failure or error, []
        print_report(summary, console)
        if written:
            console.print(plain(f"Written to {folder}: {', '.join(written)}"))
    if failure is not None:
        raise failure


def search_in_console(
    recipe: Recipe, folder: Path, *, space: Sequence[Vary], workers: int | None, execution: Execution,
    show_progress: bool, **settings: Any,
) -> None:  # fmt: skip
    """Search, and print the trials from best to worst and what the best gives. See `search.search` for the rest."""
    console = Console()
    varied = ", ".join(vary.name for vary in space)
    about = f": {settings['trials']} trials of {settings['method']}, {recipe.seeds} seeds each, varying {varied}"
    console.print(plain(recipe.title, "bold") + plain(about))
    with JobBar(console, show_progress) as bar:
        found = search(
            recipe, folder, space=space, workers=workers or default_workers(execution), execution=execution,
            progress=bar.update, loading=bar.load, say=lambda message: console.print(plain(message)), **settings,
        )  # fmt: skip
    title = f"Validation accuracy, {settings['validation']:.0%} held out"
    table = PlainTable(box=box.SIMPLE_HEAD, padding=0, title=title, title_justify="left")
    table.add_column("Settings")
    table.add_column("Accuracy (%)", justify="right")
    for trial in sorted(found.trials, key=lambda one: -one.mean)[:_SHOWN]:
        table.add_row(describe(trial.settings), percent(trial.mean, trial.std))
    console.print(table)
    if found.rows:
        console.print(plain(f"{describe(found.best.settings)}, trained on all training data: test accuracy "
                           f"{percent(*final_accuracy(found.rows))} % (n = {len(found.rows)})"))  # fmt: skip
    console.print(plain(f"Written to {folder}: {SEARCH}"))


def with_noise_rate(recipe: Recipe, rate: float) -> Recipe:
    """Return the recipe with another noise rate.

    Raises:
        RecipeError: Its conditions differ in noise, so that their names would lie.
    """
    if len({str(condition.noise) for condition in recipe.conditions}) > 1:
        raise RecipeError(
            f"{recipe.name}: its conditions differ in noise, so one rate for all cannot be set; choose some with "
            f"--only, of {', '.join(map(repr, recipe.condition_names))}, or write a recipe of your own"
        )
    return recipe.changed({"noise.rate": rate})


def default_workers(execution: Execution) -> int:
    """Return as many processes as there are cores on the CPU, one on an accelerator or with several devices."""
    import torch

    if number_of_ranks(execution) > 1:
        return 1
    accelerated = torch.cuda.is_available() or torch.backends.mps.is_available()
    on_cpu = execution.accelerator == "cpu" or (execution.accelerator == "auto" and not accelerated)
    return os.cpu_count() or 1 if on_cpu else 1


class JobBar:
    """One bar, of the job that last said something; it vanishes at the end."""

    def __init__(self, console: Console, show: bool) -> None:
        columns = (PlainColumn("{task.description}"), BarColumn(bar_width=None), TimeElapsedColumn())
        self._progress = Progress(*columns, console=console, disable=not show, transient=True, expand=True)
        self._task = self._progress.add_task("preparing the data", total=None)

    def __enter__(self) -> JobBar:
        self._progress.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._progress.stop()

    def load(self, what: str, done: int, total: int) -> None:
        """Show that `done` of `total` of something about the data is done; 0: nobody knows of how much."""
        self._progress.update(self._task, description=what, completed=done, total=total or None)

    def update(self, job: Job, done: int, total: int) -> None:
        """Show that `done` of the `total` steps of a job are taken."""
        self._progress.update(self._task, description=job.title, completed=done, total=total)


class _Bars:
    """One bar for all networks' steps and one for each job under way; they vanish at the end."""

    def __init__(self, recipe: Recipe, folder: Path, console: Console, show: bool) -> None:
        self._recipe, self._folder = recipe, folder
        columns = (PlainColumn("{task.description}"), BarColumn(bar_width=None), PlainColumn("{task.fields[steps]}"),
                   TimeElapsedColumn(), PlainColumn("left"), TimeRemainingColumn())  # fmt: skip
        self._progress = Progress(*columns, console=console, disable=not show, transient=True, expand=True)
        self._overall = self._progress.add_task("preparing the data", total=None, steps="")
        self._total = 0
        self._jobs: dict[str, TaskID] = {}
        self._done: dict[str, int] = {}

    def __enter__(self) -> _Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._progress.stop()

    def load(self, what: str, done: int, total: int) -> None:
        """Show that `done` of `total` of something about the data is done; 0: nobody knows of how much."""
        steps = f"{done:,} of {total:,}" if total else f"{done:,}" if done else ""
        self._progress.update(self._overall, description=what, completed=done, total=total or None, steps=steps)

    def update(self, job: Job, done: int, total: int) -> None:
        """Show that `done` of the `total` steps of a job are taken."""
        if not self._total:  # now that the folder is this run's, and what it holds is settled
            finished = finished_rows(self._folder).keys()
            cells = {cell.key: cell for cell in self._recipe.cells() if cell.key not in finished}
            self._total = sum(cell.solver.iterations for cell in cells.values())
        networks, name = len(job.cells), job.name
        self._done[name] = done * networks
        steps = sum(self._done.values())
        self._progress.update(self._overall, description="all", completed=steps, total=self._total,
                              steps=f"{steps:,} of {self._total:,} network steps")  # fmt: skip
        if done >= total:
            if name in self._jobs:
                self._progress.remove_task(self._jobs.pop(name))
            return
        if name not in self._jobs:
            self._jobs[name] = self._progress.add_task(job.title, total=total, steps="")
        self._progress.update(self._jobs[name], completed=done, steps=f"{done:,} of {total:,}")


def print_recipes() -> None:
    """Print every recipe of the package: name, status, networks, and what it is, costs and takes to run."""
    console = Console()
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column()
    for name in recipe_names():
        recipe = load_recipe(name)
        about = [(name, "bold"), (recipe.status, ""), (_networks(recipe), "")]
        what = [(recipe.title, "bold"), (recipe.cost, ""), (f"emphasis run {name}", "cyan")]
        if recipe.scaled is not None:
            about.append((f"scaled: {_networks(recipe.scaled_down())}", ""))
            what += [(f"scaled: {recipe.scaled.cost}", ""), (f"emphasis run {name} --scaled", "cyan")]
        table.add_row(*(Text("\n").join(plain(line, style=style) for line, style in lines) for lines in (about, what)))
        table.add_row()
    console.print(table)


def _networks(recipe: Recipe) -> str:
    return f"{sum(1 for _ in recipe.cells()):,} networks"
