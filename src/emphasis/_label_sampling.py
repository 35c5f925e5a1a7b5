"""Sampling of noisy labels for `emphasis.corruption`, class by class, from transitions that are not stored as C x C."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from emphasis.errors import EmphasisTypeError, EmphasisValueError
from emphasis.validation import checked_integer
from emphasis.weighting._numerics import Array

Sampling = Literal["exact", "independent"]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_BELOW_ONE = float(np.nextafter(1.0, 0.0))
_ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class Row:
    """The noise of the labels of one class.

    Attributes:
        stays: Probability that a label stays.
        largest: Largest probability of another class.
        bounds: Cumulative probabilities of staying, then of each other class in order, or of the one target.
        others: Probabilities of the other classes, (C - 1,); None if their order does not matter.
        target: The one class that labels change to; None: all others.
    """

    stays: float
    largest: float
    bounds: Floats
    others: Floats | None = None
    target: int | None = None


Rows = Callable[[int], Row]
"""Class-conditional noise: returns the row of a class; a matrix C x C is not needed."""


def uniform(classes: int, stays: float, other: float) -> Rows:
    """Return noise that changes labels to each other class with probability `other`."""
    row = Row(stays, other, _cumulative(np.concatenate(([stays], np.full(classes - 1, other)))))
    return lambda _: row


def moves(targets: Mapping[int, int], rate: float) -> Rows:
    """Return noise that changes each key to its value with probability `rate`, and no labels of other classes."""
    stay, move = Row(1.0, 0.0, np.ones(1)), Row(1.0 - rate, rate, _cumulative(np.array([1.0 - rate, rate])))
    return lambda label: replace(move, target=targets[label]) if label in targets else stay


def dense(matrix: Floats) -> Rows:
    """Return the noise of any transition matrix [true, noisy], (C, C), whose rows sum to 1."""

    def row(label: int) -> Row:
        stays, others = float(matrix[label, label]), np.delete(matrix[label], label)
        return Row(stays, float(others.max(initial=0.0)), _cumulative(np.append(stays, others)), others)

    return row


def _cumulative(row: Floats) -> Floats:
    bounds = np.minimum(np.cumsum(row), 1.0)
    # From the last possible target on the bound is exactly 1, without rounding: every point below 1 then has a target,
    # and targets of probability 0 have empty intervals.
    bounds[np.flatnonzero(row)[-1] :] = 1.0
    return bounds


def sample(given: Ints, classes: int, rows: Rows, sampling: str, rng: np.random.Generator) -> Ints:
    """Return noisy labels (N,) for the true labels `given` (N,), with class-conditional noise."""
    if sampling not in get_args(Sampling):
        raise EmphasisValueError(f"sampling={sampling!r} is unknown; choose one of {get_args(Sampling)}")
    noisy = given.copy()
    members_of = by_class(given, classes)
    offset = rng.random()
    for label in rng.permutation(classes).tolist():
        row, members, n = rows(label), members_of[label], members_of[label].size
        bounds, order = row.bounds, None
        if 0.0 < n * row.largest < 1.0:
            # With a fixed order the few points of every class would select the same few targets.
            order = rng.permutation(classes - 1)
            bounds = bounds if row.others is None else _cumulative(np.append(row.stays, row.others[order]))
        if sampling == "exact":
            points = rng.permutation((np.arange(n) + offset) / max(n, 1))
            points = np.minimum(points, _BELOW_ONE)  # n - 1 + U may round up to n
        else:
            points = rng.random(n)
        interval = np.searchsorted(bounds, points, side="right")
        changed = np.flatnonzero(interval)
        if row.target is None:
            other = interval[changed] - 1 if order is None else order[interval[changed] - 1]
            noisy[members[changed]] = other + (other >= label)
        else:
            noisy[members[changed]] = row.target
        # The next class compensates for too few changes, so that the total is within 1 of its expectation, too.
        offset = min(max(offset + n * (1.0 - row.stays) - changed.size, 0.0), _BELOW_ONE)
    return noisy


def by_class(labels: Ints, classes: int) -> list[Ints]:
    """Return the rows of each class, ascending, in one sort."""
    ends = np.cumsum(np.bincount(labels, minlength=classes))
    keys = labels.astype(np.uint16) if classes <= 2**16 else labels  # of two bytes, numpy sorts by radix
    return np.split(np.argsort(keys, kind="stable"), ends[:-1])


def flip_probabilities(hardness: Floats, rate: float) -> Floats:
    """Return min(1, s * hardness) with the s that makes its mean `rate`, solved exactly."""
    scaled = hardness / (hardness.max() or 1.0)
    reachable = np.count_nonzero(scaled) / scaled.size
    if rate > reachable * (1.0 + _ROUNDING):
        raise EmphasisValueError(f"noise_rate={rate:g} exceeds {reachable:g}, the share with difficulty > 0: lower it")
    if rate == 0.0:
        return np.zeros_like(scaled)
    # If the k hardest have probability 1, the others sum to N r - k; take the first k with all of those <= 1.
    largest = np.sort(scaled[scaled > 0.0])[::-1]
    rest = np.cumsum(largest[::-1])[::-1]
    load = min(rate * scaled.size, largest.size) - np.arange(largest.size)  # rate * N may round above
    k = int(np.argmax(load * (largest / rest) <= 1.0))
    unsaturated = np.minimum(np.minimum(scaled, largest[k]) / rest[k] * load[k], 1.0)
    return np.where(scaled > largest[k], 1.0, unsaturated)


def checked_labels(labels: Array, num_classes: Any, least: int = 2) -> tuple[Ints, int]:
    """Return a copy of `labels` as int64 and the number of classes, or raise an error that says what to do."""
    array = np.asarray(labels)
    if array.ndim != 1:
        raise EmphasisValueError(f"labels have shape {array.shape}, not (N,); of one-hot rows take argmax(axis=1)")
    if not array.size:
        raise EmphasisValueError("labels are empty: at least one label is needed")
    if not np.issubdtype(array.dtype, np.integer):
        raise EmphasisTypeError(f"labels are {array.dtype}, not integers; pass labels.astype(int)")
    low, high = int(array.min()), int(array.max())
    if low < 0:
        raise EmphasisValueError(f"labels hold {low}: classes are numbered from 0; leave ignored examples out first")
    classes = high + 1 if num_classes is None else checked_integer("num_classes", num_classes, least)
    if classes < least:
        raise EmphasisValueError(f"labels hold only class {high}; pass num_classes >= {least}")
    if high >= classes:
        raise EmphasisValueError(f"labels hold {high}, outside [0, {classes - 1}] of num_classes={classes}")
    return array.astype(np.int64), classes


def checked_rows(name: str, matrix: Floats, tolerance: float) -> Floats:
    """Return `matrix` with its rows divided by their sums, or raise ValueError if they are not distributions."""
    for row, column in np.argwhere(~((matrix >= 0.0) & (matrix < np.inf)))[:1]:
        raise EmphasisValueError(f"{name}[{row}, {column}]={matrix[row, column]:g} must be a probability in [0, 1]")
    sums = matrix.sum(axis=1, keepdims=True)
    for row in np.flatnonzero(np.abs(sums - 1.0) > tolerance)[:1]:
        raise EmphasisValueError(
            f"row {row} of {name} sums to {float(sums[row, 0])!r}, not to 1 within {tolerance:g}; "
            "rows are [true, noisy]: transpose, or divide by the row sums"
        )
    normalized: Floats = matrix / sums
    return normalized
