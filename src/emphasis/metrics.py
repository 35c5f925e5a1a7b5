"""Metrics of trained networks: accuracies, their spread over seeds, and whether a network collapsed.

The functions take numpy arrays.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from emphasis.errors import EmphasisValueError

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
Outcome = Literal["learned", "collapsed", "never learned", "diverged"]

_CHANCE_SIGMAS = 3.0  # an accuracy this many binomial standard deviations above 1/C is still chance
_LEARNED_SHARE = 0.1  # a network has learned something once it has closed this share of the gap from chance to 1


def accuracy(predicted: Ints, labels: Ints) -> Floats:
    """Return the share of correct predictions.

    Args:
        predicted: Predicted classes, (..., N) integers.
        labels: Labels, broadcastable to the shape of `predicted`.

    Returns:
        Accuracies in [0, 1], (...,) float64.
    """
    return np.asarray(np.mean(predicted == labels, axis=-1))


def largest_share(predicted: Ints, num_classes: int) -> Floats:
    """Return the share of the class that is predicted most often, (...,) in [1/C, 1].

    Args:
        predicted: Predicted classes, (..., N) integers in [0, num_classes).
        num_classes: Number of classes C.
    """
    counts = [np.count_nonzero(predicted == label, axis=-1) for label in range(num_classes)]
    return np.asarray(np.max(counts, axis=0) / predicted.shape[-1])


def mean_and_std(values: Sequence[float] | Floats) -> tuple[Floats, Floats]:
    """Return mean and sample standard deviation (n - 1) of the finite values; NaN where there are too few.

    Args:
        values: Values of shape (K, ...); the mean is over the first axis.
    """
    array = np.asarray(values, dtype=np.float64)
    finite = np.isfinite(array)
    count = finite.sum(axis=0)
    mean = np.where(count > 0, np.where(finite, array, 0.0).sum(axis=0) / np.maximum(count, 1), math.nan)
    squares = np.where(finite, (array - mean) ** 2, 0.0).sum(axis=0)
    return mean, np.where(count > 1, np.sqrt(squares / np.maximum(count - 1, 1)), math.nan)


def chance_ceiling(num_classes: int, num_examples: int) -> float:
    """Return an upper bound of the accuracy of guessing on `num_examples`: 1/C plus three binomial deviations."""
    chance = 1.0 / num_classes
    return chance + _CHANCE_SIGMAS * math.sqrt(chance * (1.0 - chance) / num_examples)


def outcome(accuracies: Floats, shares: Floats, num_classes: int, num_examples: int) -> Outcome:
    """Return the outcome of training one network.

    "diverged": its logits became NaN or infinite. "never learned": its accuracy never closed a tenth of the gap from
    guessing to 1. "collapsed": it did, but ends at chance or predicts one class only. "learned": none of these.

    Args:
        accuracies: Test accuracy at each evaluation, (E,), in order; NaN after divergence.
        shares: `largest_share` of the same predictions, (E,).
        num_classes: Number of classes C.
        num_examples: Size of the test set, from which the largest accuracy of guessing follows.

    Raises:
        ValueError: There is no evaluation, or the lengths differ.
    """
    if len(accuracies) == 0 or len(accuracies) != len(shares):
        raise EmphasisValueError(f"need two curves of one length >= 1, got {len(accuracies)} and {len(shares)} points")
    if not np.isfinite(accuracies[-1]):
        return "diverged"
    chance, ceiling = 1.0 / num_classes, chance_ceiling(num_classes, num_examples)
    if np.max(accuracies) <= max(ceiling, chance + _LEARNED_SHARE * (1.0 - chance)):
        return "never learned"
    return "collapsed" if accuracies[-1] <= ceiling or shares[-1] == 1.0 else "learned"


def describe_outcomes(outcomes: Sequence[Outcome]) -> str:
    """Return a summary of failed seeds, such as "collapsed (2 of 5 seeds)"; "" if none failed."""
    counts = Counter(outcomes)
    total = len(outcomes)
    seeds = "seed" if total == 1 else "seeds"
    bad: tuple[Outcome, ...] = ("collapsed", "diverged", "never learned")
    return "; ".join(f"{name} ({counts[name]} of {total} {seeds})" for name in bad if counts[name])
