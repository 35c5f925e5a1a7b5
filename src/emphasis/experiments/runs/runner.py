"""Runs a recipe: the jobs that are not finished yet, in this process or in several."""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from lightning_fabric import Fabric

from emphasis.datasets import Progress as Loading
from emphasis.datasets.download import silent
from emphasis.errors import EmphasisOSError, EmphasisValueError
from emphasis.experiments.recipes.recipe import Recipe
from emphasis.experiments.recipes.settings import Cell
from emphasis.experiments.runs.data import check_names, load_split, network_options
from emphasis.experiments.runs.ending import ending_together, lost_rank
from emphasis.experiments.runs.jobs import RETRY_SECONDS, Job, Say, make_jobs, run_job, threads_of
from emphasis.experiments.runs.own_code import check_code, with_sources
from emphasis.experiments.runs.pool import describe_failure, raise_failures, run_in_processes, say_passed
from emphasis.experiments.runs.store import (
    Row,
    claim,
    finished_rows,
    remove_leftovers,
    rows_of_recipe,
    write_results,
)  # fmt: skip
from emphasis.files import naming_refusals
from emphasis.training.fabric import make_fabric
from emphasis.training.settings import Execution, number_of_ranks

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

    A run that was killed goes on where its checkpoints are, and ends with the same lines. Several processes, on one
    machine or on several that share `folder`, may run the same recipe at once: each takes the jobs that no other is
    at, and returns once all are finished.

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
        JobError: A job failed; the others are finished first, unless the disk is full.
        UnforeseenJobError: Likewise, in a way that was not foreseen.
        EmphasisOSError: The folder cannot be written to.
    """
    if workers < 1:
        raise EmphasisValueError(f"workers={workers} is not allowed; use a whole number >= 1")
    check_names(cells := list(recipe.cells()))
    check_code(cells)
    recipe = with_sources(recipe)
    cells = list(recipe.cells())
    how = replace(execution or Execution(), precision=recipe.precision)
    ranks = _ranks(how, workers)
    with ending_together(ranks):
        writes = ranks is None or ranks.is_global_zero
        if writes:
            with naming_refusals("write to", folder):
                claim(folder, recipe, force)
        if ranks is not None:
            ranks.barrier()
        try:
            _run_jobs(
                cells, folder, root=root, download=download, execution=how, checkpoint_seconds=checkpoint_seconds,
                workers=workers, threads=threads, progress=progress, loading=loading, say=say, ranks=ranks,
            )  # fmt: skip
        except BaseException:  # whatever failed, what is finished is there to be seen
            if writes:
                with contextlib.suppress(EmphasisOSError):  # it may be that the disk is full
                    _write_finished(folder, recipe)
            raise
        return _write_finished(folder, recipe) if writes else rows_of_recipe(folder, recipe)


def _write_finished(folder: Path, recipe: Recipe) -> list[Row]:
    rows = rows_of_recipe(folder, recipe)
    write_results(folder, rows)
    with naming_refusals("write to", folder):
        remove_leftovers(folder)
    return rows


def _run_jobs(
    cells: Sequence[Cell], folder: Path, *, root: Path | None, download: bool, execution: Execution,
    checkpoint_seconds: float, workers: int, threads: int | None, progress: JobProgress, loading: Loading, say: Say,
    ranks: Fabric | None,
) -> None:  # fmt: skip
    """Train the cells that `folder` does not hold; see `run`."""
    for at in {cell.solver.schedule.at for cell in cells if cell.solver.schedule.at[-1:] >= (cell.solver.iterations,)}:
        say(f"the learning rate does not fall at all of {list(at)}: training ends before; set solver.schedule.at too")
    finished = finished_rows(folder)
    jobs = make_jobs([cell for cell in cells if cell.key not in finished])
    # Of all jobs, so that a run which goes on with the last of them has as many threads, and the same bits, as before.
    workers = min(workers, len(make_jobs(cells)))
    share = max(1, (os.cpu_count() or 1) // (workers * execution.devices))
    if not jobs:
        say(f"{folder} holds all of this already; showing it (--force trains it again)")
        return
    if finished.keys() & {cell.key for cell in cells}:
        say(f"{folder} holds {len({c.key for c in cells} & finished.keys())} of {len(cells)} networks already")
    # Before any worker starts: so that data which is missing, or slow to make, is met once.
    if ranks is not None and not ranks.is_global_zero:
        ranks.barrier()
    for first in {repr((job.cells[0].dataset, job.cells[0].noise)): job.cells[0] for job in jobs}.values():
        for note in load_split(first.dataset, first.noise, root, loading, download).notes:
            say(note)
    for job in jobs:
        network_options(job.cells[0], root)
    if ranks is not None and ranks.is_global_zero:
        ranks.barrier()
    if workers == 1 or len(jobs) <= 1:
        _run_here(
            jobs, folder, root=root, execution=execution, checkpoint_seconds=checkpoint_seconds, threads=threads,
            share=share, progress=progress, say=say, ranks=ranks,
        )  # fmt: skip
    else:
        run_in_processes(
            jobs, folder, root=root, execution=execution, checkpoint_seconds=checkpoint_seconds, workers=workers,
            threads=threads, share=share, progress=progress, say=say,
        )  # fmt: skip


def _run_here(
    jobs: Sequence[Job],
    folder: Path,
    *,
    root: Path | None,
    execution: Execution,
    checkpoint_seconds: float,
    threads: int | None,
    share: int,
    progress: JobProgress,
    say: Say,
    ranks: Fabric | None,
) -> None:
    """Run the jobs one by one, those last that another process is at.

    Raises:
        JobError, UnforeseenJobError: A job raised; the others are run first, unless the disk is full.
    """
    waiting = deque(jobs)
    passed: set[str] = set()
    failed = []
    since = 0  # jobs passed over since one was finished
    while waiting:
        job = waiting.popleft()
        torch.set_num_threads(threads or threads_of(job, share))
        since += 1
        try:
            if not run_job(
                job, folder, root=root, execution=execution, checkpoint_seconds=checkpoint_seconds,
                progress=lambda done, total, job=job: progress(job, done, total), say=say,  # type: ignore[misc]
                ranks=ranks,
            ):  # fmt: skip
                waiting.append(job)
                say_passed(job, passed, say)
                if since >= len(waiting):
                    time.sleep(RETRY_SECONDS)
                continue
        except Exception as error:  # one job's failure must not keep the others from running
            failed.append(describe_failure(job, lost_rank(error) if ranks is not None else error))
            if ranks is not None or failed[-1].is_everyones:  # other ranks may wait for this one for ever
                break
        since = 0
    raise_failures(failed)


def _ranks(execution: Execution, workers: int) -> Fabric | None:
    """Return the processes that train each network together, started or joined; None if there is one.

    Raises:
        ValueError: There are workers besides.
    """
    if number_of_ranks(execution) == 1:
        return None
    if workers > 1:
        raise EmphasisValueError(
            f"devices={execution.devices} and workers={workers} do not go together; use one of them"
        )
    return make_fabric(execution)
