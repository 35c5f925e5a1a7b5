"""Runs a recipe: the jobs that are not finished yet, in this process or in several."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from emphasis.datasets import Progress as Loading
from emphasis.datasets.download import silent
from emphasis.experiments.data import check_names, load_split, network_options
from emphasis.experiments.jobs import Job, Say, make_jobs, run_job, threads_of
from emphasis.experiments.pool import describe_failure, raise_failures, run_in_processes
from emphasis.experiments.recipe import Recipe
from emphasis.experiments.store import (
    Row,
    claim,
    finished_rows,
    remove_checkpoints_of_finished_jobs,
    rows_of_recipe,
    write_results,
)  # fmt: skip
from emphasis.training.settings import Execution

JobProgress = Callable[[Job, int, int], None]


def run(
    recipe: Recipe,
    folder: Path,
    *,
    root: Path | None = None,
    download: bool = False,
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
        download: Whether to fetch data that is not there.
        execution: Where and how it runs; its precision gives way to the recipe's.
        workers: Processes.
        threads: For torch, in each; None: one for stacked perceptrons, whose
            products are too small to share out, and the cores shared out evenly for other networks.
        checkpoint_seconds: Seconds between checkpoints.
        force: Replace earlier runs in `folder`.
        progress: Called with a job, its steps done and its steps in all.
        loading: Called with what is done to the data, how much of it is done and how much there is, where it is slow.
        say: Called with what the user should know.

    Raises:
        FolderError: `folder` holds something else.
        DataNotFoundError: The data is not there.
        JobError: A job failed; the others are finished first.
    """
    if workers < 1:
        raise ValueError(f"workers={workers} is not allowed; use a whole number >= 1")
    cells = list(recipe.cells())
    check_names(cells)
    claim(folder, recipe, force)
    for at in {cell.solver.schedule.at for cell in cells if cell.solver.schedule.at[-1:] >= (cell.solver.iterations,)}:
        say(f"the learning rate does not fall at all of {list(at)}: training ends before; set solver.schedule.at too")
    finished = finished_rows(folder)
    jobs = make_jobs([cell for cell in cells if cell.key not in finished])
    # Of all jobs, so that a run which goes on with the last of them has as many threads, and the same bits, as before.
    workers = min(workers, len(make_jobs(cells)))
    share = max(1, (os.cpu_count() or 1) // workers)
    if not jobs:
        say(f"{folder} holds all of this already; showing it (--force trains it again)")
    elif finished.keys() & {cell.key for cell in cells}:
        say(f"{folder} holds {len({c.key for c in cells} & finished.keys())} of {len(cells)} networks already")
    how = replace(execution or Execution(), precision=recipe.precision)
    try:
        if jobs:
            # Before any worker starts: so that data which is missing, or slow to make, is met once.
            for first in {repr((job.cells[0].dataset, job.cells[0].noise)): job.cells[0] for job in jobs}.values():
                for note in load_split(first.dataset, first.noise, root, loading, download).notes:
                    say(note)
            for job in jobs:
                network_options(job.cells[0], root)
        if workers == 1 or len(jobs) <= 1:
            failed = []
            for job in jobs:
                torch.set_num_threads(threads or threads_of(job, share))
                try:
                    run_job(
                        job, folder, root=root, execution=how, checkpoint_seconds=checkpoint_seconds,
                        progress=lambda done, total, job=job: progress(job, done, total), say=say,  # type: ignore[misc]
                    )  # fmt: skip
                except Exception as error:  # one job's failure must not keep the others from running
                    failed.append(describe_failure(job, error))
            raise_failures(failed)
        else:
            run_in_processes(
                jobs, folder, root=root, execution=how, checkpoint_seconds=checkpoint_seconds, workers=workers,
                threads=threads, share=share, progress=progress, say=say,
            )  # fmt: skip
    finally:  # whatever failed, what is finished is there to be seen
        rows = rows_of_recipe(folder, recipe)
        write_results(folder, rows)
        remove_checkpoints_of_finished_jobs(folder)
    return rows
