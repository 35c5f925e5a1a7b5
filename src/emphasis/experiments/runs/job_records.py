"""What a finished job stores: one line of results and the probabilities of each network."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from emphasis.experiments.recipes.settings import Cell
from emphasis.experiments.runs.jobs import Job
from emphasis.experiments.runs.rows import BINS
from emphasis.experiments.runs.store import Row
from emphasis.metrics import outcome
from emphasis.training.loop import State, diverged_batch
from emphasis.training.task import Task


def make_rows(job: Job, state: State, task: Task, about: dict[str, Any]) -> list[Row]:
    """Return one line of results per network.

    Args:
        job: The job that was trained.
        state: Its final state.
        task: Its data.
        about: Fields that all lines share, such as the device.
    """
    curves = {name: np.array(values) for name, values in state.curves.items()}
    p = _final_probabilities(state)
    noisy, evaluated = task.noisy.cpu().numpy(), task.eval_indices.cpu().numpy()
    rows = []
    for number, cell in enumerate(job.cells):
        seed_number = number % len(job.seeds)
        curve = {name: values[:, number] for name, values in curves.items()}
        accuracy = curve["test_accuracy"]
        alive = np.isfinite(accuracy)
        diverged_at = int(state.diverged_at[number])
        is_wrong = noisy[seed_number]
        evaluated_wrong = is_wrong[evaluated]
        rows.append(
            {
                "key": cell.key,
                "condition": cell.condition,
                "method": cell.method,
                "group": cell.group,
                **cell.config(),
                "realised_noise_rate": float(is_wrong.mean()),
                "best_test_accuracy": float(accuracy[alive].max()) if alive.any() else float("nan"),
                "final_test_accuracy": float(accuracy[-1]),
                **{f"final_{name}": float(curve[name][-1]) for name in curve if name != "test_accuracy"},
                "outcome": outcome(accuracy, curve["largest_share"], task.num_classes, task.num_test),
                "diverged_at": diverged_at if diverged_at >= 0 else None,
                "diverged_batch": _diverged_rows(cell, task, seed_number, diverged_at),
                "curves": {"iteration": state.evaluated_at, **{k: v.round(5).tolist() for k, v in curve.items()}},
                "p_histogram": {
                    name: np.histogram(p[number][mask], BINS, (0.0, 1.0))[0].tolist()
                    for name, mask in (("clean", ~evaluated_wrong), ("noisy", evaluated_wrong))
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


def _diverged_rows(cell: Cell, task: Task, seed_number: int, diverged_at: int) -> list[int] | None:
    """Return the training inputs in the batch that made a network diverge, or None if it did not diverge."""
    if diverged_at < 0:
        return None
    examples = diverged_batch(cell.seed, diverged_at, task, cell.solver)
    return examples if task.index is None else [int(row) for row in task.index[seed_number].cpu()[examples]]


def make_arrays(job: Job, state: State, task: Task) -> dict[str, NDArray[Any]]:
    """Return the arrays that `store.probabilities` reads: K seeds, S networks, n evaluated training examples.

    `noisy`, `labels` and `index` are (K, n), `p` is (S, n); `trace` and `predicted`, if recorded, (evaluations, S, n).
    """
    evaluated = task.eval_indices.cpu()
    everyone = np.broadcast_to(evaluated.numpy(), (len(task.labels), len(evaluated)))
    arrays: dict[str, NDArray[Any]] = {
        "keys": np.array([cell.key for cell in job.cells]),
        "seeds": np.array(job.seeds),
        "p": _final_probabilities(state),
        "noisy": task.noisy.cpu()[:, evaluated].numpy(),
        "labels": task.labels.cpu()[:, evaluated].to(torch.int32).numpy(),
        "index": everyone if task.index is None else task.index.cpu()[:, evaluated].numpy(),
    }
    if state.trace:
        arrays["trace"], arrays["predicted"] = np.stack(state.trace), np.stack(state.predicted)
    return arrays


def _final_probabilities(state: State) -> NDArray[np.float32]:
    if state.p is None:
        raise RuntimeError("the state has not been evaluated")  # `train` ends with an evaluation
    return state.p
