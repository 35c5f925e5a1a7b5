"""Jobs: which cells are trained together, and one job from data to its lines in the store."""

from __future__ import annotations

import contextlib
import math
import os
import platform
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from lightning_fabric import Fabric
from numpy.typing import NDArray

import emphasis
from emphasis.baselines import Learner, Problem, make
from emphasis.experiments.recipes.settings import Cell, Training, digest, objective_as_dict
from emphasis.experiments.runs.data import load_split, make_task, network_options
from emphasis.experiments.runs.own_code import with_code
from emphasis.experiments.runs.resuming import Checkpoints
from emphasis.experiments.runs.rows import BINS
from emphasis.experiments.runs.store import CELLS, Row, finished_rows, job_name, write_job
from emphasis.files import naming_refusals
from emphasis.metrics import outcome
from emphasis.models import build, options_of
from emphasis.models.stacked import Stack, StackedMLP, StackOfOne, start_alike
from emphasis.process import stop_if_asked, stopping_later
from emphasis.texts import shortened
from emphasis.training.fabric import make_fabric
from emphasis.training.loop import State, diverged_batch, initial_state, train
from emphasis.training.methods import LearnerStack, passes
from emphasis.training.settings import Execution, Objective, Solver, clip_length
from emphasis.training.task import Task

Progress = Callable[[int, int], None]
Say = Callable[[str], None]
_PEER_SEED = 2**20  # apart from every first network's
RETRY_SECONDS = 1.0  # between two looks at a job that another process is at
_SHOWN = 10  # broken images named


@dataclass(frozen=True)
class Job:
    """Cells that share everything but objective, learning rate and seed.

    Attributes:
        cells: Objective by objective, each at its learning rate, seed by seed.
        seeds: K of them.
    """

    cells: tuple[Cell, ...]
    seeds: tuple[int, ...]

    @cached_property  # asked for at every step, by the progress bars
    def name(self) -> str:
        """By which the store knows it."""
        return job_name(self.cells)

    @property
    def objectives(self) -> list[Objective]:
        """One per weighting, functions that it names imported; none of a method that is more than a weighting."""
        found = [cell.objective for cell in self.cells[:: len(self.seeds)]]
        return [with_code(one) for one in found if not isinstance(one, Training)]

    @property
    def solver(self) -> Solver:
        """Of all of them, at the highest of their learning rates."""
        highest = max(cell.solver.learning_rate for cell in self.cells)
        return replace(self.cells[0].solver, learning_rate=highest)

    @property
    def rates(self) -> list[float]:
        """Each network's learning rate as a share of the solver's; none if all are alike."""
        shares = [cell.solver.learning_rate / self.solver.learning_rate for cell in self.cells]
        return shares if min(shares) < 1.0 else []

    @property
    def title(self) -> str:
        """What it trains, for people."""
        first = self.cells[0]
        what = f"{len(self.cells)} networks" if len(self.cells) > 1 else f"{first.method}, seed {first.seed}"
        return ": ".join(filter(None, (first.condition, what)))


def make_jobs(cells: Sequence[Cell]) -> list[Job]:
    """Return the jobs that train `cells`, each once: perceptrons of like settings together, other networks alone."""
    stacks: dict[tuple[str, tuple[int, ...]], list[Cell]] = {}
    by_objective: dict[tuple[str, str], dict[int, Cell]] = {}
    jobs: list[Job] = []
    for cell in {cell.key: cell for cell in cells}.values():
        if is_stackable(cell):
            common = cell.shared()
            rate = common["solver"].pop("learning_rate")  # which each network of a stack may have of its own
            own = digest([objective_as_dict(cell.objective), rate])
            by_objective.setdefault((digest(common), own), {})[cell.seed] = cell
        else:
            jobs.append(Job((cell,), (cell.seed,)))
    for (shared, _), by_seed in by_objective.items():
        together: list[tuple[int, ...]] = [tuple(sorted(by_seed))]
        if _measures(next(iter(by_seed.values()))):  # each seed has a noise rate, and so a weighting, of its own
            together = [(seed,) for seed in sorted(by_seed)]
        for seeds in together:
            stacks.setdefault((shared, seeds), []).extend(by_seed[seed] for seed in seeds)
    jobs += [Job(tuple(stack), seeds) for (_, seeds), stack in stacks.items()]
    order = {cell.key: number for number, cell in reversed(list(enumerate(cells)))}
    return sorted(jobs, key=lambda job: min(order[cell.key] for cell in job.cells))


def is_stackable(cell: Cell) -> bool:
    """Return whether the cell's network can be trained as one of a stack."""
    drawn = cell.network.options.get("dropout") or cell.dataset.augment
    return cell.network.name == "mlp" and not drawn and not isinstance(cell.objective, Training)


def _measures(cell: Cell) -> bool:
    return isinstance(cell.objective, Objective) and cell.objective.measures


def threads_of(job: Job, share: int) -> int:
    """Return how many threads serve the job best, of a `share` of the cores."""
    return 1 if is_stackable(job.cells[0]) else share


def run_job(
    job: Job,
    folder: Path,
    *,
    root: Path | None,
    execution: Execution,
    checkpoint_seconds: float,
    progress: Progress = lambda _done, _total: None,
    say: Say = lambda _: None,
    ranks: Fabric | None = None,
) -> bool:
    """Train the job's networks, going on from its checkpoint if there is one, and write their lines.

    With `ranks` all of them call this, and the first holds the lock and writes.

    Returns:
        Whether the job is finished: by this call, or by another process before. False: another process is at it.
    """
    path = folder / CELLS / f"{job.name}.lock"
    lock = FileLock(path)  # the system frees it when its owner dies, however it dies
    first = ranks is None or ranks.is_global_zero
    try:
        if first:
            with naming_refusals("lock", path), contextlib.suppress(Timeout):
                lock.acquire(blocking=False)
        held = lock.is_locked
        finished = held and {cell.key for cell in job.cells} <= finished_rows(folder).keys()
        if ranks is not None:
            held, finished = ranks.broadcast((held, finished))
        if held and not finished:
            _train_job(job, folder, root, execution, checkpoint_seconds, progress, say, ranks)
        elif held:
            progress(*[job.cells[0].solver.iterations] * 2)
    finally:
        lock.release()
    if held and first:
        path.unlink(missing_ok=True)  # whoever makes it again finds the job finished
    return held


def _train_job(
    job: Job, folder: Path, root: Path | None, execution: Execution, checkpoint_seconds: float, progress: Progress,
    say: Say, ranks: Fabric | None,
) -> None:  # fmt: skip
    first = job.cells[0]
    if execution.compile:
        torch.compiler.reset()  # the graphs of another job's network, of which only so many are kept
    split = load_split(first.dataset, first.noise, root)
    fabric = ranks or make_fabric(execution)
    task = make_task(first, split, job.seeds).to(fabric.device)
    asked: list[int] = []
    stack = (
        _make_learner(first, task, asked, root)
        if isinstance(first.objective, Training)
        else make_stack(job, task.input_shape, task.num_classes, root)
    )
    state = initial_state(stack, job.solver, fabric, execution, job.rates)
    # Another device or a compiled network rounds otherwise: what one began, another must not end.
    identity = f"{job.name} on {fabric.device.type}{', compiled' if execution.compile else ''}"
    identity += f", {fabric.world_size} ranks" if fabric.world_size > 1 else ""
    identity += " with shards" if execution.strategy == "fsdp" else ""
    steps = first.solver.iterations
    path = folder / CELLS / f"{job.name}.pt"
    checkpoints = Checkpoints(path, job.title, identity, steps, checkpoint_seconds, fabric, execution, say)

    def after_step(state: State) -> None:
        progress(state.iteration, steps)
        checkpoints.after_step(state)

    with stopping_later():
        checkpoints.resume(state)
        progress(state.iteration, steps)
        train(
            state, task, job.objectives, job.seeds, job.solver, fabric,
            evaluate_every=first.evaluation.every, record_trace=first.evaluation.trace, after_step=after_step,
        )  # fmt: skip
        progress(steps, steps)  # which it may not have reached: all have diverged
        _record(job, state, task, folder, say, fabric, {
            **passes(stack.network if isinstance(stack, LearnerStack) else None, state.iteration,
                     first.solver.batch_size, task.num_train),
            "true_labels_asked": sum(asked), "seconds": round(checkpoints.seconds, 2),
            "threads": torch.get_num_threads(),
            "device": device_name(fabric.device), "compiled": execution.compile, "devices": fabric.world_size,
            "strategy": execution.strategy if fabric.world_size > 1 else None,
            "revision": revision(), "versions": versions(),
        })  # fmt: skip
    if fabric.is_global_zero:
        stop_if_asked()


def _record(job: Job, state: State, task: Task, folder: Path, say: Say, fabric: Fabric, about: dict[str, Any]) -> None:
    """Write what was found, and say what went wrong."""
    if fabric.world_size > 1:  # each has decoded its own part
        met: list[Any] = [None] * fabric.world_size
        torch.distributed.all_gather_object(met, state.broken)
        state.broken = set().union(*met)
    rows = _rows(job, state, task, about)
    if state.broken:
        say(f"{job.title}: {len(state.broken):,} images cannot be decoded and were passed over: "
            f"{shortened(sorted(state.broken), _SHOWN)}")  # fmt: skip
    for row in rows:
        if row["diverged_at"] is not None:
            few = ", ".join(map(str, row["diverged_batch"][:5]))
            say(f"{row['method']}, seed {row['seed']}: logits became NaN or infinite at iteration "
                f"{row['diverged_at']:,}, after the batch of training examples {few}, ...")  # fmt: skip
    if fabric.is_global_zero:
        write_job(folder, job.name, rows, _arrays(job, state, task))


def make_stack(job: Job, input_shape: Sequence[int], num_classes: int, root: Path | None = None) -> Stack:
    """Return the job's networks as they start; `root` is where pretrained parameters are.

    Raises:
        DataNotFoundError: The file of pretrained parameters is not there.
        ValueError: Options that the network does not have, or parameters that do not fit it.
    """
    first = job.cells[0]
    name, options = first.network.name, network_options(first, root)
    # For a stack as well: it checks the options.
    alone = build(name, tuple(input_shape), num_classes, seed=first.seed, **options)
    if not is_stackable(first):
        return StackOfOne(alone)
    given = {**options_of(name), **options}
    sizes = [math.prod(input_shape), *given["hidden"], num_classes]
    return StackedMLP(sizes, job.seeds, len(job.objectives), activation=given["activation"])


def _make_learner(cell: Cell, task: Task, asked: list[int], root: Path | None) -> LearnerStack:
    """Return the cell's network, or two, with its method; `asked` takes note of how many true labels it asks for.

    Raises:
        ValueError: Options that the network or the method does not have or allow.
    """
    assert isinstance(cell.objective, Training)
    true_labels = task.seed_true_labels[0].cpu()

    def annotate(indices: torch.Tensor) -> torch.Tensor:
        asked.append(len(indices))
        return true_labels[indices]

    problem = Problem(task.labels[0].cpu(), task.num_classes, cell.seed, annotate, clip_length(cell.solver))
    method = make(cell.objective.name, problem, **cell.objective.options)
    shape, outputs = task.input_shape, task.num_classes + method.extra_outputs
    options = network_options(cell, root)
    networks = []
    for seed in (cell.seed + number * _PEER_SEED for number in range(method.networks)):
        networks.append(build(cell.network.name, shape, outputs, seed=seed, **options))
        if cell.network.name == "mlp":  # as the losses' networks, which are trained in stacks
            start_alike(networks[-1], seed)
    return LearnerStack(Learner(method, *networks))


def _rows(job: Job, state: State, task: Task, about: dict[str, Any]) -> list[Row]:
    """Return one row per network."""
    curves = {name: np.array(values) for name, values in state.curves.items()}
    assert state.p is not None
    noisy, places = task.noisy.cpu().numpy(), task.looked_at.cpu().numpy()
    rows = []
    for number, cell in enumerate(job.cells):
        own = {name: values[:, number] for name, values in curves.items()}
        alive = np.isfinite(own["test_accuracy"])
        diverged_at = int(state.diverged_at[number])
        wrong = noisy[number % len(job.seeds)]
        looked_at = wrong[places]
        rows.append(
            {
                "key": cell.key,
                "condition": cell.condition,
                "method": cell.method,
                "group": cell.group,
                **cell.config(),
                "realised_noise_rate": float(wrong.mean()),
                "best_test_accuracy": float(own["test_accuracy"][alive].max()) if alive.any() else float("nan"),
                "final_test_accuracy": float(own["test_accuracy"][-1]),
                **{f"final_{name}": float(own[name][-1]) for name in own if name != "test_accuracy"},
                "outcome": outcome(own["test_accuracy"], own["largest_share"], task.num_classes, task.num_test),
                "diverged_at": diverged_at if diverged_at >= 0 else None,
                "diverged_batch": _batch_rows(cell, task, number % len(job.seeds), diverged_at),
                "curves": {"iteration": state.evaluated_at, **{k: v.round(5).tolist() for k, v in own.items()}},
                "p_histogram": {
                    name: np.histogram(state.p[number][mask], BINS, (0.0, 1.0))[0].tolist()
                    for name, mask in (("clean", ~looked_at), ("noisy", looked_at))
                },
                "broken_images": sorted(state.broken),
                "n_train": task.num_train,
                "n_test": task.num_test,
                "num_classes": task.num_classes,
                "networks_at_once": len(job.cells),
                **about,
            }
        )
    return rows


def _batch_rows(cell: Cell, task: Task, seed: int, diverged_at: int) -> list[int] | None:
    """Return the rows of the training inputs in the batch that made a network diverge, None if it did not."""
    if diverged_at < 0:
        return None
    places = diverged_batch(cell.seed, diverged_at, task, cell.solver)
    return places if task.index is None else [int(row) for row in task.index[seed].cpu()[places]]


def _arrays(job: Job, state: State, task: Task) -> dict[str, NDArray[Any]]:
    """Return what `store.probabilities` reads."""
    assert state.p is not None
    places = task.looked_at.cpu().numpy()
    everyone = np.broadcast_to(places, (len(task.labels), len(places)))
    arrays: dict[str, NDArray[Any]] = {
        "keys": np.array([cell.key for cell in job.cells]),
        "seeds": np.array(job.seeds),
        "p": state.p,
        "noisy": task.noisy.cpu().numpy()[:, places],
        "index": everyone if task.index is None else task.index.cpu().numpy()[:, places],
    }
    if state.trace:
        arrays["trace"], arrays["predicted"] = np.stack(state.trace), np.stack(state.predicted)
    return arrays


def device_name(device: torch.device) -> str:
    """Return what the device is called."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def versions() -> dict[str, str]:
    """Return the versions that results may depend on."""
    return {
        "emphasis": emphasis.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
    }


def revision() -> str | None:
    """Return `git describe` of the source tree this package is in, None if it is in none.

    A copy without its repository is told by EMPHASIS_REVISION in the environment, which comes first.
    """
    if told := os.environ.get("EMPHASIS_REVISION"):
        return told
    command = ["git", "describe", "--always", "--dirty", "--tags"]
    here = Path(__file__).parent
    try:
        tracked = subprocess.run(
            ["git", "ls-files", "--error-unmatch", Path(emphasis.__file__).name],
            cwd=Path(emphasis.__file__).parent,
            capture_output=True,
            timeout=10,
            check=False,
        )
        if tracked.returncode != 0:  # installed inside somebody else's repository
            return None
        found = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None
