"""What the networks make of the test set and of their own training set."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from emphasis.datasets.errors import DamagedFileError
from emphasis.metrics import accuracy, largest_share
from emphasis.training.fetching import Fetched
from emphasis.training.task import Task

CURVES = ("test_accuracy", "fit_noisy", "fit_true", "p_clean", "p_noisy", "largest_share")
_LOGITS_AT_ONCE = 2**18  # 1 MiB of float32: larger ones and their activations leave the cache
_IMAGES_AT_ONCE = {"cpu": 250}  # twice as fast as 1,000, whose activations leave the cache
_IMAGES_AT_ONCE_ON_ACCELERATORS = 4000
_PIXELS = 32 * 32  # of an image, that these numbers are for; fewer of larger ones


@dataclass(frozen=True, eq=False)
class Evaluation:
    """S networks, n training examples that were looked at.

    Attributes:
        curves: For each of `CURVES`, (S,) numbers; NaN for networks without finite logits.
        p: (S, n) float32, the probability of the label trained on; NaN likewise, and where an image is broken.
        predicted: (S, n) int64, the class of the largest logit on the training examples; -1 where an image is broken.
        finite: (S,) bool, networks that have not diverged, all of whose logits here were finite.
        broken: Files of images that could not be decoded; they count nowhere.
    """

    curves: dict[str, NDArray[np.float64]]
    p: NDArray[np.float32]
    predicted: NDArray[np.int64]
    finite: NDArray[np.bool_]
    broken: frozenset[str] = frozenset()


@torch.no_grad()
def evaluate(module: nn.Module, networks: int, task: Task, alive: NDArray[np.bool_]) -> Evaluation:
    """Return the accuracies and probabilities of S `networks`, which are in evaluation mode meanwhile.

    Args:
        module: The stack, (K, B, ...) -> (S, B, C).
        networks: S.
        task: The data, on the module's device.
        alive: (S,) networks that have not diverged so far; the others' numbers are NaN.

    Raises:
        DamagedFileError: An image cannot be decoded, and such are not skipped; or no test image can.
    """
    training = module.training
    module.eval()
    copies = networks // len(task.labels)
    size = examples_at_once(task, networks)
    predicted, whole, broken = [], [], set[str]()
    finite = torch.ones(networks, dtype=torch.bool, device=task.labels.device)
    for batch in task.fetch_test(size):
        logits = module(task.prepared(batch.inputs))
        finite &= logits.isfinite().flatten(1).all(1)
        predicted.append(logits.argmax(2))
        whole.append(_whole(batch))
        broken.update(batch.names)
    test_whole = torch.cat(whole, 1)[0].numpy()
    if not test_whole.any():
        raise DamagedFileError(f"none of {len(test_whole)} test images can be decoded")
    tested = torch.cat(predicted, 1).cpu().numpy()[:, test_whole]
    test_labels = task.test_labels.cpu().numpy()[test_whole]

    fitted, probabilities, whole = [], [], []
    parts = torch.split(task.looked_at, size)
    seeds = 1 if task.index is None else len(task.labels)  # without an index they share their inputs
    for part, batch in zip(parts, task.fetch(part.expand(seeds, -1) for part in parts), strict=True):
        logits = module(task.prepared(batch.inputs)).float()
        labels = task.labels[:, part.to(task.labels.device)].repeat(copies, 1)
        finite &= logits.isfinite().flatten(1).all(1)
        fitted.append(logits.argmax(2))
        probabilities.append(_probabilities(logits, labels))
        whole.append(_whole(batch))
        broken.update(batch.names)
    trained, p = torch.cat(fitted, 1).cpu().numpy(), torch.cat(probabilities, 1).cpu().numpy()
    module.train(training)

    # Method by method, (S / K, K, n): the seeds' labels then broadcast, and are not copied for every network.
    looked_at = slice(None) if not task.look else task.looked_at.cpu().numpy()
    given, true, noisy = (v.cpu().numpy()[:, looked_at] for v in (task.labels, task.seed_true_labels, task.noisy))
    by_method = (copies, *given.shape)
    fit, probability = trained.reshape(by_method), p.reshape(by_method)
    seen = np.broadcast_to(torch.cat(whole, 1).numpy(), given.shape)
    curves = {
        "test_accuracy": accuracy(tested, test_labels),
        "fit_noisy": _masked_mean(fit == given, seen).ravel(),
        "fit_true": _masked_mean(fit == true, seen).ravel(),
        "p_clean": _masked_mean(probability, seen & ~noisy).ravel(),
        "p_noisy": _masked_mean(probability, seen & noisy).ravel(),
        "largest_share": largest_share(tested, task.num_classes),
    }
    fit[:, ~seen], probability[:, ~seen] = -1, math.nan
    known = alive & finite.cpu().numpy()
    p[~known] = math.nan
    shown = {name: np.where(known, values, math.nan) for name, values in curves.items()}
    return Evaluation(shown, p, trained, known, frozenset(broken))


def examples_at_once(task: Task, networks: int) -> int:
    """Return how many examples a pass without derivatives takes at a time, to be fast and small."""
    size = max(1, _LOGITS_AT_ONCE // (networks * task.num_classes))
    if task.statistics is None:
        return size
    images = _IMAGES_AT_ONCE.get(task.labels.device.type, _IMAGES_AT_ONCE_ON_ACCELERATORS)
    return min(size, max(1, images * _PIXELS // max(_PIXELS, math.prod(task.input_shape[1:]))))


def _whole(batch: Fetched) -> Tensor:
    """Return which images of a batch were decoded, (K, B) bool on the CPU."""
    return torch.ones(batch.places.shape, dtype=torch.bool) if batch.broken is None else ~batch.broken


def _probabilities(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the probability of each label, (S, B), from logits (S, B, C)."""
    return (logits.gather(2, labels.unsqueeze(2)).squeeze(2) - logits.logsumexp(2)).exp()


def _masked_mean(values: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the mean of `values` (..., K, n) where `mask` (K, n) holds, NaN where it holds nowhere (no noise, say)."""
    counts = np.broadcast_to(mask.sum(axis=-1), values.shape[:-1])
    sums = np.einsum("...n,...n->...", values, mask, dtype=np.float64)
    means: NDArray[np.float64] = np.divide(sums, counts, out=np.full(counts.shape, math.nan), where=counts > 0)
    return means
