"""The loop that trains all networks at once and evaluates them as it goes.

The state of a run after a step is a function of its settings and that step's number alone: initialisation, noise
and batches are seeded, and nothing draws on a global generator. A checkpoint therefore resumes bit for bit.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from emphasis.metrics import accuracy, largest_share
from emphasis.models.stacked import Parameters, forward, init_mlps
from emphasis.training.batches import batch_indices
from emphasis.training.objectives import total_loss
from emphasis.training.settings import Objective, Solver
from emphasis.weighting import EmphasisWarning

CURVES = ("test_accuracy", "fit_noisy", "fit_true", "p_clean", "p_noisy", "largest_share")


@dataclass(frozen=True, eq=False)
class Task:
    """What the networks learn and are judged by; K seeds, N training and M test examples of C classes.

    Attributes:
        inputs: (N, D).
        labels: (K, N) int64, the noisy labels of each seed, which training sees.
        true_labels: (N,) int64.
        test_inputs: (M, D).
        test_labels: (M,) int64.
        num_classes: C.
    """

    inputs: Tensor
    labels: Tensor
    true_labels: Tensor
    test_inputs: Tensor
    test_labels: Tensor
    num_classes: int


@dataclass(eq=False)
class State:
    """Everything that changes during training; S = methods * seeds networks, method by method.

    Attributes:
        parameters: The networks.
        optimizer: SGD over them.
        iteration: Steps taken.
        diverged_at: (S,) int64, the iteration at which a network's logits became NaN or infinite; -1 if never.
        evaluated_at: Iterations of the evaluations so far.
        curves: For each of `CURVES`, one list of S numbers per evaluation; NaN once diverged.
    """

    parameters: Parameters
    optimizer: torch.optim.SGD
    iteration: int
    diverged_at: Tensor
    evaluated_at: list[int] = field(default_factory=list)
    curves: dict[str, list[list[float]]] = field(default_factory=lambda: {name: [] for name in CURVES})


def initial_state(layer_sizes: Sequence[int], seeds: Sequence[int], methods: int, solver: Solver) -> State:
    """Return the state before the first step: every method starts from its seed's initialisation."""
    parameters = init_mlps(layer_sizes, seeds, methods)
    optimizer = torch.optim.SGD(parameters, lr=solver.learning_rate, momentum=solver.momentum)
    return State(parameters, optimizer, 0, torch.full((methods * len(seeds),), -1))


def train(
    state: State,
    task: Task,
    objectives: Sequence[Objective],
    seeds: Sequence[int],
    solver: Solver,
    evaluate_every: int,
    after_step: Callable[[State], None] = lambda _: None,
) -> None:
    """Train `state` in place to the last iteration, evaluating at 0, every `evaluate_every` steps and at the end.

    Args:
        state: From `initial_state` or a checkpoint.
        task: The data.
        objectives: One per method.
        seeds: One per row of `task.labels`.
        solver: The settings of SGD.
        evaluate_every: Steps between evaluations, >= 1.
        after_step: Called after each step and its evaluation; progress and checkpoints go here.
    """
    with warnings.catch_warnings():
        # A recipe may ask for the bare formula, to show what it does; the outcome is then reported, not warned of.
        warnings.simplefilter("ignore", EmphasisWarning)
        if state.iteration == 0 and not state.evaluated_at:
            evaluate(state, task)
        while state.iteration < solver.iterations:
            step(state, task, objectives, seeds, solver)
            if state.iteration % evaluate_every == 0 or state.iteration == solver.iterations:
                evaluate(state, task)
            after_step(state)


def step(state: State, task: Task, objectives: Sequence[Objective], seeds: Sequence[int], solver: Solver) -> None:
    """Take one step of SGD with every network."""
    indices = torch.from_numpy(batch_indices(seeds, state.iteration, len(task.inputs), solver.batch_size))
    inputs = task.inputs[indices].repeat(len(objectives), 1, 1)
    labels = task.labels.gather(1, indices)
    logits = forward(state.parameters, inputs)
    if _retire_diverged(state, logits):
        logits = forward(state.parameters, inputs)
    state.optimizer.zero_grad(set_to_none=True)
    total_loss(objectives, logits, labels).backward()  # type: ignore[no-untyped-call]
    state.optimizer.step()
    state.iteration += 1


@torch.no_grad()
def _retire_diverged(state: State, logits: Tensor) -> bool:
    """Zero the networks whose logits are not finite, and note when; return whether there were any.

    Zeroed networks stay harmless in the stack; `evaluate` reports NaN for them from then on.
    """
    bad = ~logits.isfinite().all(dim=2).all(dim=1)
    if not bool(bad.any()):
        return False
    state.diverged_at[bad & (state.diverged_at < 0)] = state.iteration
    for parameter in state.parameters:
        parameter[bad] = 0.0
        momentum = state.optimizer.state[parameter].get("momentum_buffer")
        if momentum is not None:
            momentum[bad] = 0.0
    return True


@torch.no_grad()
def evaluate(state: State, task: Task) -> None:
    """Append one point to every curve."""
    networks = len(state.diverged_at)
    copies = networks // len(task.labels)
    logits = forward(state.parameters, task.test_inputs.expand(networks, -1, -1))
    _retire_diverged(state, logits)
    predicted = logits.argmax(dim=2).numpy()
    train_logits = forward(state.parameters, task.inputs.expand(networks, -1, -1))
    train_predicted = train_logits.argmax(dim=2).numpy()
    labels = task.labels.repeat(copies, 1)
    p = _probabilities(train_logits, labels)
    clean = (labels == task.true_labels).numpy()

    point = {
        "test_accuracy": accuracy(predicted, task.test_labels.numpy()),
        "fit_noisy": accuracy(train_predicted, labels.numpy()),
        "fit_true": accuracy(train_predicted, task.true_labels.numpy()),
        "p_clean": _masked_mean(p, clean),
        "p_noisy": _masked_mean(p, ~clean),
        "largest_share": largest_share(predicted, task.num_classes),
    }
    alive = (state.diverged_at < 0).numpy()
    for name, values in point.items():
        state.curves[name].append(np.where(alive, values, math.nan).tolist())
    state.evaluated_at.append(state.iteration)


@torch.no_grad()
def label_probabilities(state: State, task: Task) -> NDArray[np.float32]:
    """Return p of each network's noisy label of each training example, (S, N); NaN for diverged networks."""
    networks = len(state.diverged_at)
    logits = forward(state.parameters, task.inputs.expand(networks, -1, -1))
    p = _probabilities(logits, task.labels.repeat(networks // len(task.labels), 1))
    p[(state.diverged_at >= 0).numpy()] = math.nan
    return p


def _probabilities(logits: Tensor, labels: Tensor) -> NDArray[np.float32]:
    p: NDArray[np.float32] = logits.log_softmax(2).gather(2, labels.unsqueeze(2)).squeeze(2).exp().numpy()
    return p


def _masked_mean(values: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the mean of each row where its mask holds, NaN where it holds nowhere (no noise, say)."""
    counts = mask.sum(axis=1)
    sums = np.where(mask, values, 0.0).sum(axis=1, dtype=np.float64)
    means: NDArray[np.float64] = np.divide(sums, counts, out=np.full(len(counts), math.nan), where=counts > 0)
    return means
