"""How much faster a sweep of small networks trains as one batched computation than one network after another.

    python benchmarks/many_networks.py --data DIR [--recipe table5] [--iterations 1000] [--repeats 3]

Both ways train the networks of one condition of the recipe with the same code, step by step in turn, on one thread,
without evaluation or checkpoints; the single networks are a sample of the condition's methods, and the time of one
after another is their mean times the number of networks. Printed: milliseconds per step, and the ratio with its range
over the repeats.
"""

from __future__ import annotations

import argparse
import contextlib
import platform
import statistics
import time
from pathlib import Path

import torch

from emphasis.experiments.recipes.load import load_recipe
from emphasis.experiments.runs.context import RunContext
from emphasis.experiments.runs.data import load_split, make_task
from emphasis.experiments.runs.jobs import Job, make_jobs
from emphasis.experiments.runs.train_job import make_stack
from emphasis.training.fabric import make_fabric
from emphasis.training.loop import initial_state, train
from emphasis.training.settings import Execution
from emphasis.training.task import Task

SAMPLED = 6  # single networks timed in each repeat


def seconds(job: Job, task: Task, iterations: int) -> float:
    """Return how long `iterations` steps of the job's networks take."""
    solver = job.cells[0].solver
    execution = Execution(accelerator="cpu")
    fabric = make_fabric(execution)
    state = initial_state(make_stack(job, task.inputs.shape[1:], task.num_classes), solver, fabric, execution)
    state.evaluated_at.append(0)  # no evaluation before the first step
    times: list[float] = []

    class EnoughError(Exception):
        pass

    def after_step(_state: object) -> None:
        times.append(time.perf_counter())
        if len(times) > iterations:
            raise EnoughError

    with contextlib.suppress(EnoughError):
        train(state, task, job.objectives, job.seeds, solver, fabric, evaluate_every=10**9, after_step=after_step)
    return times[-1] - times[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--recipe", default="table5")
    parser.add_argument("--iterations", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)

    recipe = load_recipe(options.recipe)
    recipe = recipe.limited([recipe.condition_names[0]])
    job = make_jobs(list(recipe.cells()))[0]
    first = job.cells[0]
    split = load_split(first.dataset, first.noise, RunContext(options.data))
    stacked_task = make_task(first, split, job.seeds)
    single_task = make_task(first, split, job.seeds[:1])
    chosen = job.cells[:: len(job.seeds)][:: max(1, len(job.objectives) // SAMPLED)][:SAMPLED]

    ratios, stacked_ms, single_ms = [], [], []
    for _ in range(options.repeats):
        together = seconds(job, stacked_task, options.iterations)
        alone = statistics.mean(seconds(Job((cell,), (cell.seed,)), single_task, options.iterations) for cell in chosen)
        stacked_ms.append(1e3 * together / options.iterations)
        single_ms.append(1e3 * alone / options.iterations)
        ratios.append(len(job.cells) * alone / together)

    def spread(values: list[float]) -> str:
        return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"

    print(
        f"{recipe.name}, {len(job.cells)} networks, {options.iterations} steps, {options.repeats} repeats, one thread;"
    )
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}")
    print(f"together, ms per step of all networks      {spread(stacked_ms)}")
    print(f"alone, ms per step of one network          {spread(single_ms)}")
    print(f"one after another / together               {spread(ratios)}")


if __name__ == "__main__":
    main()
