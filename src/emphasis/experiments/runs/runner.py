"""Runs a recipe: trains the jobs that are not finished yet, in this process or in several."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from emphasis.compatibility.fabric import Fabric
from emphasis.datasets import ImageFiles
from emphasis.errors import EmphasisOSError, EmphasisValueError
from emphasis.executors import make_executor
from emphasis.experiments.recipes.recipe import Recipe
from emphasis.experiments.recipes.settings import Cell
from emphasis.experiments.runs.context import DEFAULT_CONTEXT, SILENT, Reporter, RunContext
from emphasis.experiments.runs.data import check_names, load_split, load_whole, network_options
from emphasis.experiments.runs.dispatch import report_postponed, run_on_executor
from emphasis.experiments.runs.failures import describe_failure, raise_failures
from emphasis.experiments.runs.job_work import JobWork
from emphasis.experiments.runs.jobs import Job, make_jobs, threads_of
from emphasis.experiments.runs.shutdown import explain_lost_rank, shutting_down_together
from emphasis.experiments.runs.store import (
    CELLS,
    Row,
    acquire,
    finished_rows,
    remove_stale_files,
    rows_of_recipe,
    write_results,
)
from emphasis.experiments.runs.train_job import RETRY_SECONDS, run_job
from emphasis.experiments.runs.user_code import check_code, with_sources
from emphasis.files import naming_refusals
from emphasis.process import threads_of_each
from emphasis.training.fabric import make_fabric
from emphasis.training.settings import number_of_ranks


def run(
    recipe: Recipe,
    folder: Path,
    context: RunContext = DEFAULT_CONTEXT,
    reporter: Reporter = SILENT,
    *,
    force: bool = False,
) -> list[Row]:
    """Train the networks of a recipe that `folder` does not hold yet, and return the lines of all of them.

    A run that was killed resumes from its checkpoints and ends with the same lines. Several processes, on one machine
    or on several that share `folder`, may run the same recipe at once: each takes jobs that no other is running, and
    returns when all are finished.

    Args:
        recipe: What to train.
        folder: Folder of results and checkpoints.
        context: How it is trained.
        reporter: Receives progress and messages.
        force: Whether earlier runs in `folder` are replaced.

    Returns:
        One line of results per network, in the order of the recipe.

    Raises:
        FolderError: If `folder` holds something else.
        DataNotFoundError: If the data is missing.
        JobError: If a job failed; the others are finished first, unless the disk is full.
        UnforeseenJobError: If a job failed for an unknown reason; likewise.
        EmphasisOSError: If the folder cannot be written to.
    """
    cells = list(recipe.cells())
    check_names(cells)
    check_code(cells)
    recipe = with_sources(recipe)
    context = replace(context, execution=replace(context.execution, precision=recipe.precision))
    ranks = _start_ranks(context)
    with shutting_down_together(ranks):
        is_first = ranks is None or ranks.is_global_zero
        if is_first:
            with naming_refusals("write to", folder):
                acquire(folder, recipe, force, context.locks)
        if ranks is not None:
            ranks.barrier()
        try:
            _run_cells(list(recipe.cells()), folder, context, reporter, ranks)
        except BaseException:  # whatever failed, the results of finished jobs are written
            if is_first:
                with contextlib.suppress(EmphasisOSError):  # the disk may be full
                    _write_finished(folder, recipe)
            raise
        return _write_finished(folder, recipe) if is_first else rows_of_recipe(folder, recipe)


def _write_finished(folder: Path, recipe: Recipe) -> list[Row]:
    rows = rows_of_recipe(folder, recipe)
    write_results(folder, rows)
    with naming_refusals("write to", folder):
        remove_stale_files(folder)
    return rows


def _run_cells(
    cells: Sequence[Cell], folder: Path, context: RunContext, reporter: Reporter, ranks: Fabric | None
) -> None:
    """Train the cells that `folder` does not hold yet; see `run`."""
    for steps in {cell.solver.schedule.at for cell in cells if _ends_before_last_fall(cell)}:
        reporter.message(
            f"training ends before the learning rate has fallen at all of {list(steps)}; set solver.schedule.at too",
            "warning",
        )
    finished = finished_rows(folder).keys() & {cell.key for cell in cells}
    unfinished = [cell for cell in cells if cell.key not in finished]
    if finished:
        reporter.resumed(folder, len(finished), len({cell.key for cell in cells}))
    if not unfinished:
        return
    jobs = make_jobs(unfinished)
    # By the number of all jobs, so that a resumed run has as many threads, and the same bits, as before.
    context = replace(context, workers=min(context.workers, len(make_jobs(cells)) if finished else len(jobs)))
    # Before any worker starts, so that missing or slow data is encountered once.
    if ranks is not None and not ranks.is_global_zero:
        ranks.barrier()
    for first in _first_jobs(jobs).values():
        cell = first.cells[0]
        for note in load_split(cell.dataset, cell.noise, context, reporter).notes:
            reporter.message(note, "note")
    for job in jobs:
        network_options(job.cells[0], context.root)
    if ranks is not None and ranks.is_global_zero:
        ranks.barrier()
    if context.executor.is_local and (context.workers == 1 or len(jobs) == 1):
        cores = threads_of_each(context.workers * context.execution.devices)
        _run_here(jobs, folder, context, reporter, cores, ranks)
    else:
        _run_elsewhere(jobs, folder, context, reporter)


def _first_jobs(jobs: Sequence[Job]) -> dict[str, Job]:
    """Return the first job of each data set and noise, by what identifies these."""
    return {_data_of(job): job for job in reversed(jobs)}


def _data_of(job: Job) -> str:
    return repr((job.cells[0].dataset, job.cells[0].noise))


def _run_elsewhere(jobs: Sequence[Job], folder: Path, context: RunContext, reporter: Reporter) -> None:
    """Run the jobs on an executor."""
    cores_each = threads_of_each(context.workers)
    root = None if context.root is None else context.root.absolute()
    executor = make_executor(
        context.executor,
        folder / CELLS,
        workers=context.workers,
        cpus=context.threads or 1,
        gpus=int(context.execution.accelerator not in ("auto", "cpu")),
    )
    data = {}
    for name, first in {} if executor.shares_disk else _first_jobs(jobs).items():
        cell = first.cells[0]
        whole = load_whole(cell.dataset, cell.noise, context)
        data[name] = None if isinstance(whole.train_inputs, ImageFiles) else executor.share(whole)

    def make_work(job: Job, checkpoint: Path | bytes | None) -> JobWork:
        threads = context.threads or (threads_of(job, cores_each) if context.executor.is_local else 1)
        worker_context = replace(context, root=root, workers=1, threads=threads)
        return JobWork(job, worker_context, checkpoint, data.get(_data_of(job)), Path.cwd())

    run_on_executor(jobs, folder, reporter, executor, make_work)


def _ends_before_last_fall(cell: Cell) -> bool:
    """Return whether training ends before the learning rate falls for the last time."""
    return cell.solver.schedule.at[-1:] >= (cell.solver.iterations,)


def _run_here(
    jobs: Sequence[Job], folder: Path, context: RunContext, reporter: Reporter, cores: int, ranks: Fabric | None
) -> None:
    """Run the jobs one by one in this process; those that are running in another process come last.

    Raises:
        JobError, UnforeseenJobError: If a job failed; the others are run first, unless the disk is full.
    """
    queue = deque(jobs)
    postponed: set[str] = set()
    failures = []
    busy_in_a_row = 0
    while queue:
        job = queue.popleft()
        torch.set_num_threads(context.threads or threads_of(job, cores))
        try:
            finished = run_job(job, folder, context, reporter, ranks)
        except Exception as error:  # the failure of one job does not stop the others
            failures.append(describe_failure(job, explain_lost_rank(error) if ranks is not None else error))
            if ranks is not None or failures[-1].concerns_all:  # other ranks might wait for this one forever
                break
            finished = True
        if finished:
            busy_in_a_row = 0
            continue
        queue.append(job)
        report_postponed(job, postponed, reporter)
        busy_in_a_row += 1
        if busy_in_a_row >= len(queue):
            time.sleep(RETRY_SECONDS)
    raise_failures(failures)


def _start_ranks(context: RunContext) -> Fabric | None:
    """Start or join the processes that train each network together; return None if there is only one.

    Raises:
        ValueError: If there are several workers or an executor as well.
    """
    execution = context.execution
    if number_of_ranks(execution) == 1:
        return None
    for option, value, default in (("workers", context.workers, 1), ("executor", context.executor.name, "local")):
        if value != default:
            raise EmphasisValueError(
                f"devices={execution.devices} and {option}={value} cannot be combined; use one of them"
            )
    return make_fabric(execution)
