"""One job, from its data to its lines in the store."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from emphasis.baselines import Learner, Problem, make
from emphasis.compatibility.fabric import Fabric
from emphasis.experiments.recipes.settings import Cell, MethodSpec
from emphasis.experiments.runs.checkpointing import JobCheckpointer
from emphasis.experiments.runs.context import Reporter, RunContext
from emphasis.experiments.runs.data import load_split, make_task, network_options
from emphasis.experiments.runs.example_arrays import describe_examples
from emphasis.experiments.runs.job_records import make_arrays, make_rows
from emphasis.experiments.runs.jobs import Job, is_stackable
from emphasis.experiments.runs.provenance import device_name, revision, versions
from emphasis.experiments.runs.store import CELLS, Row, is_finished, make_lock, write_job
from emphasis.files import naming_refusals
from emphasis.models import build, options_of
from emphasis.models.stacked import SingleNetwork, Stack, StackedMLP, init_like_stack
from emphasis.process import stop_if_asked, stopping_later
from emphasis.texts import shortened
from emphasis.training.fabric import make_fabric
from emphasis.training.loop import State, initial_state, train
from emphasis.training.methods import LearnerStack, passes
from emphasis.training.settings import clip_length
from emphasis.training.task import Task

_SECOND_NETWORK_SEED = 2**20  # added to the seed of a method's second network, beyond the seeds of first networks
RETRY_SECONDS = 1.0  # between two attempts at a job that is running in another process
_BROKEN_SHOWN = 10  # images named in a message


def run_job(job: Job, folder: Path, context: RunContext, reporter: Reporter, ranks: Fabric | None = None) -> bool:
    """Train the networks of a job in this process, from its checkpoint if there is one, and store their results.

    Args:
        job: The job.
        folder: Folder of the run.
        context: How it is trained; `workers`, `threads` and `executor` are not used.
        reporter: Receives progress and messages.
        ranks: The processes that train each network together, all of which call this function. Rank 0 holds the lock
            and writes. None if this process is alone.

    Returns:
        Whether the job is finished, by this call or earlier. False if it is running in another process.
    """
    lock = JobLock(job, folder)
    is_first = ranks is None or ranks.is_global_zero
    try:
        acquired, finished = lock.acquire() if is_first else (False, False)
        if ranks is not None:
            acquired, finished = ranks.broadcast((acquired, finished))
        if acquired and not finished:
            with stopping_later():
                checkpoint = folder / CELLS / f"{job.name}.pt"
                rows, arrays = train_networks(job, checkpoint, context, reporter, ranks=ranks)
                if is_first:
                    write_job(folder, job.name, rows, arrays)
                    reporter.finished(job, rows)
            if is_first:
                stop_if_asked()
        elif acquired:
            reporter.progress(job, *[job.cells[0].solver.iterations] * 2)
    finally:
        lock.release()
    if acquired and is_first:
        lock.remove()
    return acquired


class JobLock:
    """The lock of a job, which the process holds that trains it or has it trained."""

    def __init__(self, job: Job, folder: Path) -> None:
        self._folder, self._name = folder, job.name
        self._path = folder / CELLS / f"{job.name}.lock"
        self._lock = make_lock(folder, job.name)

    def acquire(self) -> tuple[bool, bool]:
        """Return whether the lock was acquired, and whether the job then turned out to be finished."""
        with naming_refusals("lock", self._path), contextlib.suppress(Timeout):
            self._lock.acquire(blocking=False)
        acquired = self._lock.is_locked
        return acquired, acquired and is_finished(self._folder, self._name)

    def release(self) -> None:
        """Release the lock, if it is held."""
        self._lock.release()

    def remove(self) -> None:
        """Remove the file of a finished job; whoever creates it again will find the job finished."""
        if isinstance(self._lock, FileLock):  # a lease removes its file itself
            self._path.unlink(missing_ok=True)


def train_networks(
    job: Job,
    checkpoint: Path,
    context: RunContext,
    reporter: Reporter,
    *,
    ranks: Fabric | None = None,
    saved: Callable[[], None] | None = None,
) -> tuple[list[Row], dict[str, NDArray[Any]]]:
    """Train the networks of a job, from its checkpoint if there is one.

    Args:
        job: The job.
        checkpoint: File of its checkpoints.
        context: How it is trained.
        reporter: Receives progress and messages.
        ranks: The processes that train each network together; None if this process is alone.
        saved: Called after each checkpoint was written.

    Returns:
        What is stored of the job: a line per network, and the arrays.
    """
    first, execution = job.cells[0], context.execution
    if execution.compile:
        torch.compiler.reset()  # the number of compiled graphs that are kept is limited
    split = load_split(first.dataset, first.noise, context)
    fabric = ranks or make_fabric(execution)
    task = make_task(first, split, job.seeds).to(fabric.device)
    queries: list[int] = []
    stack = (
        _make_learner(first, task, queries, context.root)
        if isinstance(first.objective, MethodSpec)
        else make_stack(job, task.input_shape, task.num_classes, context.root)
    )
    state = initial_state(stack, job.solver, fabric, execution, job.rates)
    steps = first.solver.iterations
    checkpointer = JobCheckpointer(job, checkpoint, context, fabric, reporter, saved)

    def after_step(state: State) -> None:
        reporter.progress(job, state.iteration, steps)
        checkpointer.after_step(state)

    with stopping_later():
        checkpointer.resume(state)
        reporter.progress(job, state.iteration, steps)
        train(
            state,
            task,
            job.objectives,
            job.seeds,
            job.solver,
            fabric,
            evaluate_every=first.evaluation.every,
            record_trace=first.evaluation.trace,
            after_step=after_step,
        )
        reporter.progress(job, steps, steps)  # training ends early if all networks have diverged
        learner = stack.network if isinstance(stack, LearnerStack) else None
        about = {
            **passes(learner, state.iteration, first.solver.batch_size, task.num_train),
            "true_labels_asked": sum(queries),
            "seconds": round(checkpointer.seconds, 2),
            "threads": torch.get_num_threads(),
            "device": device_name(fabric.device),
            "compiled": execution.compile,
            "devices": fabric.world_size,
            "strategy": execution.strategy if fabric.world_size > 1 else None,
            "revision": revision(),
            "versions": versions(),
        }
        _gather_broken_images(state, fabric)
        rows = make_rows(job, state, task, about)
        _report_problems(job, state, rows, reporter)
        arrays: dict[str, NDArray[Any]] = {}
        if fabric.is_global_zero:
            arrays = make_arrays(job, state, task)
            if first.evaluation.trace and len(job.cells) == 1 and fabric.world_size == 1 and not execution.compile:
                arrays |= describe_examples(state, task)
    return rows, arrays


def _gather_broken_images(state: State, fabric: Fabric) -> None:
    """Collect the images that could not be decoded from all ranks, each of which has decoded its own part."""
    if fabric.world_size > 1:
        collected: list[Any] = [None] * fabric.world_size
        torch.distributed.all_gather_object(collected, state.broken)
        state.broken = set().union(*collected)


def _report_problems(job: Job, state: State, rows: Sequence[dict[str, Any]], reporter: Reporter) -> None:
    """Report images that could not be decoded, and networks that diverged."""
    if state.broken:
        names = shortened(sorted(state.broken), _BROKEN_SHOWN)
        text = f"{job.title}: {len(state.broken):,} images cannot be decoded and were skipped: {names}"
        reporter.message(text, "warning")
    for row in rows:
        if row["diverged_at"] is not None:
            examples = ", ".join(map(str, row["diverged_batch"][:5]))
            text = (
                f"{row['method']}, seed {row['seed']}: logits became NaN or infinite at iteration "
                f"{row['diverged_at']:,}, after the batch of training examples {examples}, ..."
            )
            reporter.message(text, "warning")


def make_stack(job: Job, input_shape: Sequence[int], num_classes: int, root: Path | None = None) -> Stack:
    """Return the initial networks of a job.

    Args:
        job: A job whose objectives are weightings.
        input_shape: Shape of one example.
        num_classes: C.
        root: Data folder, which holds pretrained parameters.

    Raises:
        DataNotFoundError: If the file of pretrained parameters does not exist.
        ValueError: If the network does not have an option, or the parameters do not fit it.
    """
    first = job.cells[0]
    name, options = first.network.name, network_options(first, root)
    # Also for a stack, since this checks the options.
    single = build(name, tuple(input_shape), num_classes, seed=first.seed, **options)
    if not is_stackable(first):
        return SingleNetwork(single)
    settings = {**options_of(name), **options}
    sizes = [math.prod(input_shape), *settings["hidden"], num_classes]
    return StackedMLP(sizes, job.seeds, len(job.objectives), activation=settings["activation"])


def _make_learner(cell: Cell, task: Task, queries: list[int], root: Path | None) -> LearnerStack:
    """Return the network or networks of a cell, with its method.

    Args:
        cell: A cell whose objective is a method beyond a weighting.
        task: Its data.
        queries: Receives the number of true labels of each query of the method's.
        root: Data folder, which holds pretrained parameters.

    Raises:
        ValueError: If the network or the method does not have or allow an option.
    """
    objective = cell.objective
    if not isinstance(objective, MethodSpec):
        raise TypeError(f"{objective!r} is a weighting, which has no learner")
    true_labels = task.seed_true_labels[0].cpu()

    def annotate(indices: torch.Tensor) -> torch.Tensor:
        queries.append(len(indices))
        return true_labels[indices]

    problem = Problem(task.labels[0].cpu(), task.num_classes, cell.seed, annotate, clip_length(cell.solver))
    method = make(objective.name, problem, **objective.options)
    shape, outputs = task.input_shape, task.num_classes + method.extra_outputs
    options = network_options(cell, root)
    networks = []
    for seed in (cell.seed + number * _SECOND_NETWORK_SEED for number in range(method.networks)):
        networks.append(build(cell.network.name, shape, outputs, seed=seed, **options))
        if cell.network.name == "mlp":  # like the networks of weightings, which are trained in stacks
            init_like_stack(networks[-1], seed)
    return LearnerStack(Learner(method, *networks))
