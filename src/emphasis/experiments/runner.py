"""Runs a recipe: data, noise, all networks at once, checkpoints, and the rows of the results."""

from __future__ import annotations

import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import emphasis
from emphasis.corruption import symmetric
from emphasis.datasets import load_digits
from emphasis.experiments.recipe import Recipe
from emphasis.experiments.store import CHECKPOINT, Probabilities, Row, claim, read_results, write_results
from emphasis.metrics import outcome
from emphasis.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from emphasis.training.loop import CURVES, State, Task, initial_state, label_probabilities, train

Progress = Callable[[int, int], None]
Say = Callable[[str], None]


def run(
    recipe: Recipe,
    folder: Path,
    *,
    threads: int | None = None,
    checkpoint_seconds: float = 5.0,
    force: bool = False,
    progress: Progress = lambda _done, _total: None,
    say: Say = lambda _: None,
) -> tuple[list[Row], Probabilities]:
    """Run `recipe` in `folder`, or go on with what a killed run left there, or return what a finished one wrote.

    Args:
        recipe: What to do.
        folder: Where results and checkpoints go.
        threads: For torch; None: as torch sees fit. A resumed run keeps those it began with, so that it ends alike.
        checkpoint_seconds: Seconds between checkpoints.
        force: Replace an earlier run in `folder`.
        progress: Called with steps done and steps in all.
        say: Called with what the user should know.

    Raises:
        FolderError: `folder` holds something else.
    """
    claim(folder, recipe.config(), recipe.config_hash(), force)
    finished = read_results(folder)
    if finished is not None:
        say(f"{folder} holds this run already; showing it (--force runs it again)")
        return finished

    if threads is not None:
        torch.set_num_threads(threads)
    task, noisy = make_task(recipe)
    state, earlier_seconds = _start(recipe, task, folder / CHECKPOINT, say)
    began = last_saved = time.monotonic()

    def after_step(state: State) -> None:
        nonlocal last_saved
        progress(state.iteration, recipe.solver.iterations)
        now = time.monotonic()
        if now - last_saved >= checkpoint_seconds:
            extra = {"seconds": earlier_seconds + now - began, "threads": torch.get_num_threads()}
            save_checkpoint(folder / CHECKPOINT, state, recipe.config_hash(), extra)
            last_saved = time.monotonic()

    progress(state.iteration, recipe.solver.iterations)
    objectives = [method.objective for method in recipe.methods]
    train(state, task, objectives, recipe.seeds, recipe.solver, recipe.evaluation.every, after_step)
    seconds = earlier_seconds + time.monotonic() - began
    rows = _rows(recipe, state, task, noisy, seconds)
    probabilities = Probabilities(label_probabilities(state, task), noisy)
    write_results(folder, rows, probabilities)
    return rows, probabilities


def make_task(recipe: Recipe) -> tuple[Task, np.ndarray[Any, np.dtype[np.bool_]]]:
    """Return the data with each seed's noisy labels, and which of them are wrong, (K, N)."""
    split = load_digits(recipe.dataset.test_size, recipe.dataset.split_seed)
    noises = [
        symmetric(split.train_labels, recipe.noise.rate, num_classes=split.num_classes, seed=seed)
        for seed in recipe.seeds
    ]
    task = Task(
        inputs=torch.from_numpy(split.train_inputs),
        labels=torch.from_numpy(np.stack([noise.labels for noise in noises])),
        true_labels=torch.from_numpy(split.train_labels),
        test_inputs=torch.from_numpy(split.test_inputs),
        test_labels=torch.from_numpy(split.test_labels),
        num_classes=split.num_classes,
    )
    return task, np.stack([noise.changed for noise in noises])


def _start(recipe: Recipe, task: Task, checkpoint: Path, say: Say) -> tuple[State, float]:
    """Return the state to go on from, and the seconds spent on it so far."""
    sizes = [task.inputs.shape[1], *recipe.network.hidden, task.num_classes]
    state = initial_state(sizes, recipe.seeds, len(recipe.methods), recipe.solver)
    try:
        extra = load_checkpoint(checkpoint, state, recipe.config_hash())
    except FileNotFoundError:
        return state, 0.0
    except CheckpointError as error:
        say(f"{error}; starting from the beginning")
        return state, 0.0
    torch.set_num_threads(extra["threads"])
    say(f"going on from iteration {state.iteration:,} of {recipe.solver.iterations:,}")
    return state, float(extra["seconds"])


def _rows(
    recipe: Recipe, state: State, task: Task, noisy: np.ndarray[Any, np.dtype[np.bool_]], seconds: float
) -> list[Row]:
    """Return one row per network."""
    curves = {name: np.array(state.curves[name]) for name in CURVES}
    about = {
        "n_seeds": len(recipe.seeds),
        "n_train": len(task.inputs),
        "n_test": len(task.test_inputs),
        "chance": 1.0 / task.num_classes,
        "config_hash": recipe.config_hash(),
        "revision": revision(),
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "seconds": round(seconds, 2),
    }
    rows = []
    for number, (method, seed) in enumerate((m, s) for m in recipe.methods for s in recipe.seeds):
        own = {name: values[:, number] for name, values in curves.items()}
        alive = np.isfinite(own["test_accuracy"])
        rows.append(
            {
                "recipe": recipe.name,
                **method.as_dict(),
                "seed": seed,
                "noise_rate": recipe.noise.rate,
                "realised_noise_rate": float(noisy[number % len(recipe.seeds)].mean()),
                "best_test_accuracy": float(own["test_accuracy"][alive].max()),
                "final_test_accuracy": float(own["test_accuracy"][-1]),
                **{f"final_{name}": float(own[name][-1]) for name in CURVES if name != "test_accuracy"},
                "outcome": outcome(own["test_accuracy"], own["largest_share"], task.num_classes, len(task.test_inputs)),
                "diverged_at": int(state.diverged_at[number]) if state.diverged_at[number] >= 0 else None,
                "curves": {"iteration": state.evaluated_at, **{k: v.round(6).tolist() for k, v in own.items()}},
                **about,
            }
        )
    return rows


def versions() -> dict[str, str]:
    """Return the versions that results may depend on."""
    return {
        "emphasis": emphasis.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
    }


def revision() -> str | None:
    """Return `git describe` of the source tree this package is in, None if it is in none."""
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
