"""Runs a recipe: the jobs that are not finished yet, in this process or in several."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch

from emphasis.datasets import Progress as Loading
from emphasis.datasets.download import silent
from emphasis.experiments.data import load_split
from emphasis.experiments.jobs import Job, Say, make_jobs, run_job
from emphasis.experiments.pool import run_in_processes
from emphasis.experiments.recipe import Recipe
from emphasis.experiments.store import Row, claim, finished_rows, rows_of_recipe, write_results
from emphasis.training.settings import Execution

JobProgress = Callable[[Job, int, int], None]


def run(
    recipe: Recipe,
    folder: Path,
    *,
    root: Path | None = None,
    execution: Execution | None = None,
    workers: int = 1,
    threads: int | None = None,
    checkpoint_seconds: float = 10.0,
    force: bool = False,
    progress: JobProgress = lambda _job, _done, _total: None,
    loading: Loading = silent,
    say: Say = lambda _: None,
) -> list[Row]:
    """Train what `folder` does not hold yet of `recipe`, and return the lines of all its cells, in its order.

    A run that was killed goes on where its checkpoints are, and ends with the same lines.

    Args:
        recipe: What to do.
        folder: Where results and checkpoints go.
        root: Where the data is; None: `emphasis.datasets.data_root`'s choice.
        execution: Where and how it runs; its precision gives way to the recipe's.
        workers: Processes.
        threads: For torch, in each; None: the cores shared out evenly.
        checkpoint_seconds: Seconds between checkpoints.
        force: Replace earlier runs in `folder`.
        progress: Called with a job, its steps done and its steps in all.
        loading: Called with what is done to the data, how much of it is done and how much there is, where it is slow.
        say: Called with what the user should know.

    Raises:
        FolderError: `folder` holds something else.
        DataNotFoundError: The data is not there.
        JobError: A worker failed; the other jobs are finished first.
    """
    claim(folder, recipe, force)
    cells = list(recipe.cells())
    finished = finished_rows(folder)
    jobs = make_jobs([cell for cell in cells if cell.key not in finished])
    if not jobs:
        say(f"{folder} holds all of this already; showing it (--force trains it again)")
    elif finished.keys() & {cell.key for cell in cells}:
        say(f"{folder} holds {len({c.key for c in cells} & finished.keys())} of {len(cells)} networks already")
    how = _with_precision(execution or Execution(), recipe.precision)
    if jobs:
        # Before any worker starts: so that data which is missing, or slow to make, is met once.
        for settings in {repr((job.cells[0].dataset, job.cells[0].noise)): job.cells[0] for job in jobs}.values():
            load_split(settings.dataset, settings.noise, root, loading)
        workers = min(workers, len(jobs))
        threads = threads or max(1, (os.cpu_count() or 1) // workers)
        if workers == 1:
            torch.set_num_threads(threads)
            for job in jobs:
                run_job(
                    job, folder, root=root, execution=how, checkpoint_seconds=checkpoint_seconds,
                    progress=lambda done, total, job=job: progress(job, done, total), say=say,  # type: ignore[misc]
                )  # fmt: skip
        else:
            run_in_processes(
                jobs, folder, root=root, execution=how, checkpoint_seconds=checkpoint_seconds, workers=workers,
                threads=threads, progress=progress, say=say,
            )  # fmt: skip
    rows = rows_of_recipe(folder, recipe)
    write_results(folder, rows)
    return rows


def _with_precision(execution: Execution, precision: str) -> Execution:
    import dataclasses

    return dataclasses.replace(execution, precision=precision)
