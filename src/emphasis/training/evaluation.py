"""Evaluation of networks on the test part and on their training examples."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from emphasis.datasets.errors import DamagedFileError
from emphasis.metrics import accuracy, largest_share
from emphasis.training.fetching import Fetched
from emphasis.training.ranks import deal_round_robin, gather_in_order
from emphasis.training.task import Task

CURVES = ("test_accuracy", "fit_noisy", "fit_true", "p_clean", "p_noisy", "largest_share")
_LOGITS_AT_ONCE = 2**18  # 1 MiB of float32; more logits and their activations exceed the cache
_IMAGES_AT_ONCE = {"cpu": 250}  # twice as fast as 1,000, whose activations exceed the cache
_IMAGES_AT_ONCE_ON_ACCELERATORS = 4000
_PIXELS = 32 * 32  # size of the images for which these numbers hold; larger images use smaller batches


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Evaluation of S networks and n training examples.

    Attributes:
        curves: Values (S,) of each of `CURVES` and of the evaluator's curves; NaN for networks without finite logits.
            The largest share is that of the test part, or of the training part if the task has an evaluator.
        p: (S, n) float32, probability of the training label; NaN for networks without finite logits and for broken
            images.
        predicted: (S, n) int64, class of the largest logit of the training examples; -1 for broken images.
        finite: (S,) bool, whether a network has not diverged and all logits of this evaluation are finite.
        broken: Files of images that this rank could not decode; they are not counted in any value.
    """

    curves: dict[str, NDArray[np.float64]]
    p: NDArray[np.float32]
    predicted: NDArray[np.int64]
    finite: NDArray[np.bool_]
    broken: frozenset[str] = frozenset()


@torch.no_grad()
def evaluate(module: nn.Module, networks: int, task: Task, alive: NDArray[np.bool_], group: Any = None) -> Evaluation:
    """Return the accuracies and probabilities of S networks, which are evaluated in evaluation mode.

    Args:
        module: Stack of networks, (K, B, ...) -> (S, B, C).
        networks: Number of networks S.
        task: Data, on the module's device.
        alive: (S,) whether a network has not diverged so far; the values of the others are NaN.
        group: Ranks that share the work; all of them must call this, and all get the same result. None for this
            process alone.

    Raises:
        DamagedFileError: An image cannot be decoded and broken images are not skipped, or no test image can be decoded.
        ValueError: The task's evaluator does not support these networks.
    """
    training = module.training
    module.eval()
    copies = networks // len(task.labels)
    size = examples_at_once(task, networks)
    broken = set[str]()
    tests: dict[str, Any] = {}
    tests_finite = np.ones(networks, dtype=bool)
    if task.tests_are_trained_on:
        pass  # they are classified as training examples
    elif task.evaluator is None:
        tests, tests_finite = _classify(module, task, size, broken, group)
    else:
        tests = task.evaluator.evaluate(module, task, size, broken, group)

    parts = torch.split(task.eval_indices, size)
    parts_of_rank = deal_round_robin(parts, group)
    seeds = 1 if task.index is None else len(task.labels)  # without an index, all seeds share their inputs

    def evaluations() -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        for part, batch in zip(
            parts_of_rank, task.fetch(part.expand(seeds, -1) for part in parts_of_rank), strict=True
        ):
            logits = module(task.prepared(batch.inputs)).float()
            labels = task.labels[:, part.to(task.labels.device)].repeat(copies, 1)
            broken.update(batch.names)
            yield logits.argmax(2), _probabilities(logits, labels), _finite(logits), decoded(batch)

    fitted, probabilities, finites, decoded_parts = zip(*gather_in_order(evaluations(), len(parts), group), strict=True)
    trained, p = torch.cat(fitted, 1).cpu().numpy(), torch.cat(probabilities, 1).cpu().numpy()
    finite = torch.stack(finites).all(0).cpu().numpy() & tests_finite
    module.train(training)

    # Networks of one seed share its labels: results have shape (S / K, K, n), to which labels (K, n) are broadcast.
    eval_rows = slice(None) if not task.eval_train_size else task.eval_indices.cpu().numpy()
    training_labels, true, noisy = (
        v.cpu().numpy()[:, eval_rows] for v in (task.labels, task.seed_true_labels, task.noisy)
    )
    by_method = (copies, *training_labels.shape)
    fit, probability = trained.reshape(by_method), p.reshape(by_method)
    is_decoded = np.broadcast_to(torch.cat(decoded_parts, 1).numpy(), training_labels.shape)
    if task.tests_are_trained_on:
        tests = {"test_accuracy": accuracy(trained, task.test_labels.cpu().numpy())}
    curves = {
        "largest_share": largest_share(trained, task.num_classes),
        **tests,
        "fit_noisy": _masked_mean(fit == training_labels, is_decoded).ravel(),
        "fit_true": _masked_mean(fit == true, is_decoded).ravel(),
        "p_clean": _masked_mean(probability, is_decoded & ~noisy).ravel(),
        "p_noisy": _masked_mean(probability, is_decoded & noisy).ravel(),
    }
    fit[:, ~is_decoded], probability[:, ~is_decoded] = -1, math.nan
    valid = alive & finite & np.isfinite(curves["test_accuracy"])
    p[~valid] = math.nan
    masked_curves = {name: np.where(valid, values, math.nan) for name, values in curves.items()}
    return Evaluation(masked_curves, p, trained, valid, frozenset(broken))


def _classify(
    module: nn.Module, task: Task, size: int, broken: set[str], group: Any
) -> tuple[dict[str, Any], NDArray[np.bool_]]:
    """Return the curves of the test part, and which networks have finite logits; add broken images to `broken`."""
    parts = torch.split(torch.arange(len(task.test_inputs)), size)

    def evaluations() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for batch in task.fetch_test(deal_round_robin(parts, group)):
            logits = module(task.prepared(batch.inputs))
            broken.update(batch.names)
            yield logits.argmax(2), _finite(logits), decoded(batch)

    predicted, finites, decoded_parts = zip(*gather_in_order(evaluations(), len(parts), group), strict=True)
    is_decoded = torch.cat(decoded_parts, 1)[0].numpy()
    if not is_decoded.any():
        raise DamagedFileError(f"none of {len(is_decoded)} test images can be decoded")
    tested = torch.cat(predicted, 1).cpu().numpy()[:, is_decoded]
    labels = task.test_labels.cpu().numpy()[is_decoded]
    curves = {"test_accuracy": accuracy(tested, labels), "largest_share": largest_share(tested, task.num_classes)}
    return curves, torch.stack(finites).all(0).cpu().numpy()


def examples_at_once(task: Task, networks: int) -> int:
    """Return a batch size for passes without derivatives that is fast and needs little memory."""
    size = max(1, _LOGITS_AT_ONCE // (networks * task.num_classes))
    if task.statistics is None:
        return size
    images = _IMAGES_AT_ONCE.get(task.labels.device.type, _IMAGES_AT_ONCE_ON_ACCELERATORS)
    return min(size, max(1, images * _PIXELS // max(_PIXELS, math.prod(task.input_shape[1:]))))


def decoded(batch: Fetched) -> Tensor:
    """Return which images of a batch were decoded, (K, B) bool on the CPU."""
    return torch.ones(batch.places.shape, dtype=torch.bool) if batch.broken is None else ~batch.broken


def _finite(logits: Tensor) -> Tensor:
    """Return which networks' logits (S, B, C) are all finite, (S,)."""
    return logits.isfinite().flatten(1).all(1)


def _probabilities(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the probability of each label, (S, B), from logits (S, B, C)."""
    return (logits.gather(2, labels.unsqueeze(2)).squeeze(2) - logits.logsumexp(2)).exp()


def _masked_mean(values: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the mean of `values` (..., K, n) where `mask` (K, n) holds, NaN where it holds nowhere (no noise, say)."""
    counts = np.broadcast_to(mask.sum(axis=-1), values.shape[:-1])
    sums = np.einsum("...n,...n->...", values, mask, dtype=np.float64)
    means: NDArray[np.float64] = np.divide(sums, counts, out=np.full(counts.shape, math.nan), where=counts > 0)
    return means
