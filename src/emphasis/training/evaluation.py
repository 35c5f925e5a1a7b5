"""What the networks make of the test set and of their own training set."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from emphasis.baselines.learner import DivergedError, Learner
from emphasis.datasets.errors import DamagedFileError
from emphasis.metrics import accuracy, largest_share
from emphasis.models.stacked import StackOfOne
from emphasis.retrieval import RANKS
from emphasis.training.features import find, spread
from emphasis.training.fetching import Fetched
from emphasis.training.task import Task

CURVES = ("test_accuracy", "fit_noisy", "fit_true", "p_clean", "p_noisy", "largest_share")
RETRIEVAL_CURVES = ("mean_average_precision", *(f"cmc_{rank}" for rank in RANKS))
"""Beside them where there is a gallery; the test accuracy is then CMC at rank 1, the share of right first answers."""
_LOGITS_AT_ONCE = 2**18  # 1 MiB of float32: larger ones and their activations leave the cache
_IMAGES_AT_ONCE = {"cpu": 250}  # twice as fast as 1,000, whose activations leave the cache
_IMAGES_AT_ONCE_ON_ACCELERATORS = 4000
_PIXELS = 32 * 32  # of an image, that these numbers are for; fewer of larger ones


@dataclass(frozen=True, eq=False)
class Evaluation:
    """S networks, n training examples that were looked at.

    Attributes:
        curves: For each of `CURVES`, and of `RETRIEVAL_CURVES` where there is a gallery, (S,) numbers; NaN for networks
            without finite logits. The largest share is of the test part, or of the training part if it has no classes.
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
        DamagedFileError: An image cannot be decoded, and such are not skipped; or no test image, or none of a video.
        ValueError: There is a gallery, and networks in a stack, which are not for it.
    """
    training = module.training
    module.eval()
    copies = networks // len(task.labels)
    size = examples_at_once(task, networks)
    finite = torch.ones(networks, dtype=torch.bool, device=task.labels.device)
    broken = set[str]()
    tests = _classify(module, task, size, finite, broken) if task.gallery is None else _find(module, task, size, broken)

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
        "largest_share": largest_share(trained, task.num_classes),
        **tests,
        "fit_noisy": _masked_mean(fit == given, seen).ravel(),
        "fit_true": _masked_mean(fit == true, seen).ravel(),
        "p_clean": _masked_mean(probability, seen & ~noisy).ravel(),
        "p_noisy": _masked_mean(probability, seen & noisy).ravel(),
    }
    fit[:, ~seen], probability[:, ~seen] = -1, math.nan
    known = alive & finite.cpu().numpy() & np.isfinite(curves["test_accuracy"])
    p[~known] = math.nan
    shown = {name: np.where(known, values, math.nan) for name, values in curves.items()}
    return Evaluation(shown, p, trained, known, frozenset(broken))


def _classify(module: nn.Module, task: Task, size: int, finite: Tensor, broken: set[str]) -> dict[str, Any]:
    """Return the curves that are of the test part; note in `finite` and `broken` what is not as it should be."""
    predicted, whole = [], []
    for batch in task.fetch_test(size):
        logits = module(task.prepared(batch.inputs))
        finite &= logits.isfinite().flatten(1).all(1)
        predicted.append(logits.argmax(2))
        whole.append(_whole(batch))
        broken.update(batch.names)
    kept = torch.cat(whole, 1)[0].numpy()
    if not kept.any():
        raise DamagedFileError(f"none of {len(kept)} test images can be decoded")
    tested = torch.cat(predicted, 1).cpu().numpy()[:, kept]
    labels = task.test_labels.cpu().numpy()[kept]
    return {"test_accuracy": accuracy(tested, labels), "largest_share": largest_share(tested, task.num_classes)}


def _find(module: nn.Module, task: Task, size: int, broken: set[str]) -> dict[str, Any]:
    """Return the curves that are of the gallery, NaN if the network has diverged; note in `broken` bad images."""
    assert task.gallery is not None
    stack = next((one for one in module.modules() if isinstance(one, StackOfOne)), None)
    if stack is None:
        raise ValueError("retrieval needs a network that trains alone, such as small-cnn; use one in place of mlp")
    # As it is, without Fabric and the compiler around it: what is wanted is not what it returns.
    learner = stack.network if isinstance(stack.network, Learner) else None
    network, method = (stack.network, None) if learner is None else (learner.network, learner.method)
    video = task.test_labels.cpu().numpy()
    rows = np.arange(len(video))
    if method is not None and method.test_frames:
        first, length = (np.unique(video, return_index=True)[1], np.bincount(video))
        rows = np.unique(spread(first, length, method.test_frames))
    met: list[NDArray[np.int64]] = []

    def frames() -> Iterator[tuple[Tensor, NDArray[np.int64]]]:
        done = 0
        for batch in task.fetch_test(size, torch.from_numpy(rows)):
            kept = _whole(batch)[0].numpy()
            broken.update(batch.names)
            met.append(video[rows[done : done + len(kept)]][kept])
            done += len(kept)
            yield task.prepared(batch.inputs)[0][torch.from_numpy(kept)], met[-1]

    try:
        found = find(network, method, frames(), task.gallery)
    except DivergedError:
        return dict.fromkeys(("test_accuracy", *RETRIEVAL_CURVES), np.array([math.nan]))
    except ValueError as error:
        lacking = np.setdiff1d(video, np.concatenate(met))
        if not lacking.size:
            raise
        raise DamagedFileError(
            f"none of the images of {lacking.size} of {len(task.gallery.person)} test videos can be decoded, those of "
            f"video {lacking[0]} first; leave them out of the lists, or get them again"
        ) from error
    cmc = {f"cmc_{rank}": np.array([found.cmc(rank)]) for rank in RANKS}
    return {"test_accuracy": cmc["cmc_1"], "mean_average_precision": np.array([found.mean_average_precision]), **cmc}


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
