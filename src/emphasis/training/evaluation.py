"""What the networks make of the test set and of their own training set."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from emphasis.metrics import accuracy, largest_share
from emphasis.training.task import Task, all_places

CURVES = ("test_accuracy", "fit_noisy", "fit_true", "p_clean", "p_noisy", "largest_share")
_LOGITS_AT_ONCE = 2**18  # 1 MiB of float32: larger ones and their activations leave the cache
_IMAGES_AT_ONCE = {"cpu": 250}  # twice as fast as 1,000, whose activations leave the cache
_IMAGES_AT_ONCE_ON_ACCELERATORS = 4000


@dataclass(frozen=True, eq=False)
class Evaluation:
    """S networks, n training examples.

    Attributes:
        curves: For each of `CURVES`, (S,) numbers; NaN for networks without finite logits.
        p: (S, n) float32, the probability of the label trained on; NaN likewise.
        predicted: (S, n) int64, the class of the largest logit on the training examples.
        finite: (S,) bool, networks that have not diverged, all of whose logits here were finite.
    """

    curves: dict[str, NDArray[np.float64]]
    p: NDArray[np.float32]
    predicted: NDArray[np.int64]
    finite: NDArray[np.bool_]


@torch.no_grad()
def evaluate(module: nn.Module, networks: int, task: Task, alive: NDArray[np.bool_]) -> Evaluation:
    """Return the accuracies and probabilities of S `networks`, which are in evaluation mode meanwhile.

    Args:
        module: The stack, (K, B, ...) -> (S, B, C).
        networks: S.
        task: The data, on the module's device.
        alive: (S,) networks that have not diverged so far; the others' numbers are NaN.
    """
    training = module.training
    module.eval()
    copies = networks // len(task.labels)
    size = examples_at_once(task, networks)
    predicted = []
    finite = torch.ones(networks, dtype=torch.bool, device=task.inputs.device)
    for start in range(0, len(task.test_inputs), size):
        logits = module(task.prepared(task.test_inputs[start : start + size].unsqueeze(0)))
        finite &= logits.isfinite().flatten(1).all(1)
        predicted.append(logits.argmax(2))
    tested = torch.cat(predicted, 1).cpu().numpy()

    fitted, probabilities = [], []
    for start in range(0, task.num_train, size):
        stop = min(start + size, task.num_train)
        logits = module(task.prepared(task.at(task.rows(all_places(task, start, stop))))).float()
        labels = task.labels[:, start:stop].repeat(copies, 1)
        finite &= logits.isfinite().flatten(1).all(1)
        fitted.append(logits.argmax(2))
        probabilities.append(_probabilities(logits, labels))
    trained, p = torch.cat(fitted, 1).cpu().numpy(), torch.cat(probabilities, 1).cpu().numpy()
    module.train(training)

    # Method by method, (S / K, K, n): the seeds' labels then broadcast, and are not copied for every network.
    given, true, noisy = (v.cpu().numpy() for v in (task.labels, task.seed_true_labels, task.noisy))
    by_method = (copies, len(given), task.num_train)
    fit = trained.reshape(by_method)
    probability = p.reshape(by_method)
    curves = {
        "test_accuracy": accuracy(tested, task.test_labels.cpu().numpy()),
        "fit_noisy": accuracy(fit, given).ravel(),
        "fit_true": accuracy(fit, true).ravel(),
        "p_clean": _masked_mean(probability, ~noisy).ravel(),
        "p_noisy": _masked_mean(probability, noisy).ravel(),
        "largest_share": largest_share(tested, task.num_classes),
    }
    known = alive & finite.cpu().numpy()
    p[~known] = math.nan
    return Evaluation({name: np.where(known, values, math.nan) for name, values in curves.items()}, p, trained, known)


def examples_at_once(task: Task, networks: int) -> int:
    """Return how many examples a pass without derivatives takes at a time, to be fast and small."""
    size = max(1, _LOGITS_AT_ONCE // (networks * task.num_classes))
    if task.statistics is None:
        return size
    return min(size, _IMAGES_AT_ONCE.get(task.inputs.device.type, _IMAGES_AT_ONCE_ON_ACCELERATORS))


def _probabilities(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the probability of each label, (S, B), from logits (S, B, C)."""
    return (logits.gather(2, labels.unsqueeze(2)).squeeze(2) - logits.logsumexp(2)).exp()


def _masked_mean(values: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the mean of `values` (..., K, n) where `mask` (K, n) holds, NaN where it holds nowhere (no noise, say)."""
    counts = np.broadcast_to(mask.sum(axis=-1), values.shape[:-1])
    sums = np.einsum("...n,...n->...", values, mask, dtype=np.float64)
    means: NDArray[np.float64] = np.divide(sums, counts, out=np.full(counts.shape, math.nan), where=counts > 0)
    return means
