"""Messages and progress bars in the terminal. The bars vanish when their work is done."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from rich.progress import BarColumn, Progress, TaskID, TimeElapsedColumn, TimeRemainingColumn

from emphasis.cli.output import message_console
from emphasis.datasets.table_report import TableReport, in_shell
from emphasis.experiments.runs.context import Level, Reporter
from emphasis.rich_text import PlainColumn, plain

if TYPE_CHECKING:
    from emphasis.experiments.recipes.recipe import Recipe
    from emphasis.experiments.runs.jobs import Job


class Bars(Reporter):
    """Messages, and a bar for the work as a whole; a context manager that shows the bars.

    Args:
        options: The command's options: whether bars and messages are shown, and where.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self._is_quiet, self._is_verbose = options.quiet, options.verbose
        self._console = message_console(options)
        columns = (
            PlainColumn("{task.description}"),
            BarColumn(bar_width=None),
            PlainColumn("{task.fields[steps]}"),
            TimeElapsedColumn(),
            PlainColumn("left"),
            TimeRemainingColumn(),
        )
        is_hidden = options.no_progress or options.quiet
        self._progress = Progress(*columns, console=self._console, disable=is_hidden, transient=True, expand=True)
        self._overall = self._progress.add_task("preparing the data", total=None, steps="")
        self._began: dict[str, float] = {}
        self._finished: set[str] = set()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._progress.stop()

    def message(self, text: str, level: Level = "info") -> None:
        """Print a line above the bars; `--quiet` omits lines that are not warnings."""
        if level != "warning" and self._is_quiet:
            return
        text = in_shell(text)  # a table's report marks options
        # Notes about data are long, and those who copy or search them expect a line each.
        self._console.print(plain(text if level == "info" else f"{level}: {text}"), soft_wrap=level == "note")

    def notes(self, report: TableReport) -> None:
        """Print the notes about a table."""
        for line in report.lines(str):
            self.message(line, "note")

    def loading(self, task: str, done: int, total: int) -> None:
        """Show that `done` of `total` parts of a task are done; a total of 0 means that it is unknown."""
        steps = f"{done:,} of {total:,}" if total else f"{done:,}" if done else ""
        self._progress.update(self._overall, description=task, completed=done, total=total or None, steps=steps)

    def progress(self, job: Job, done: int, total: int) -> None:
        """Show that `done` of the `total` steps of a job are taken; with `--verbose`, print when all are."""
        now = time.monotonic()
        began = self._began.setdefault(job.name, now)
        self._show(job, done, total)
        if done >= total and self._is_verbose and job.name not in self._finished:
            self._finished.add(job.name)
            self.message(f"{job.title}: {total:,} steps in {now - began:.1f} s")

    def _show(self, job: Job, done: int, total: int) -> None:
        """Update the bars of a job."""
        raise NotImplementedError


class JobBar(Bars):
    """One bar, for the job or the part of the work that reported last."""

    def _show(self, job: Job, done: int, total: int) -> None:
        self._progress.update(self._overall, description=job.title, completed=done, total=total or None, steps="")


class RunBars(Bars):
    """One bar for the steps of all networks and one for each running job."""

    def __init__(self, recipe: Recipe, folder: Path, options: argparse.Namespace) -> None:
        super().__init__(options)
        self._recipe, self._folder = recipe, folder
        self._total = 0
        self._jobs: dict[str, TaskID] = {}
        self._done: dict[str, int] = {}

    def _show(self, job: Job, done: int, total: int) -> None:
        if not self._total:
            self._total = self._steps_to_take()
        networks, name = len(job.cells), job.name
        self._done[name] = done * networks
        steps = sum(self._done.values())
        label = f"{steps:,} of {self._total:,} network steps"
        self._progress.update(self._overall, description="all", completed=steps, total=self._total, steps=label)
        if done >= total:
            if name in self._jobs:
                self._progress.remove_task(self._jobs.pop(name))
            return
        if name not in self._jobs:
            self._jobs[name] = self._progress.add_task(job.title, total=total, steps="")
        self._progress.update(self._jobs[name], completed=done, steps=f"{done:,} of {total:,}")

    def _steps_to_take(self) -> int:
        """Return the steps of all networks that were not trained before; call it once the folder is this run's."""
        from emphasis.experiments.runs.store import finished_rows

        finished = finished_rows(self._folder).keys()
        cells = {cell.key: cell for cell in self._recipe.cells() if cell.key not in finished}
        return sum(cell.solver.iterations for cell in cells.values())
