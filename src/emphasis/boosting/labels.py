"""Labels and sample weights of boosters: checks, numbers of classes, and the scores that boosting starts from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emphasis.errors import EmphasisValueError

FloatArray = NDArray[np.float64]


def one_column(y: Any) -> NDArray[Any]:
    """Return labels as an array of one dimension; a table of one column, (N, 1), is one as well."""
    labels = np.asarray(y)
    return labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels


def checked_classes(y_true: Any) -> tuple[NDArray[Any], NDArray[np.intp]]:
    """Return the sorted classes, and the number of each example's class among them.

    Raises:
        EmphasisValueError: If there is one class only, or a label is missing.
    """
    labels = one_column(y_true)
    if labels.dtype.kind == "f" and np.isnan(labels).any():
        raise EmphasisValueError(f"y holds NaN in {np.isnan(labels).sum()} rows; remove rows without a label")
    classes, numbers = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise EmphasisValueError(f"y holds {len(classes)} class; a classifier needs two or more")
    return classes, numbers


def numbers_among(classes: NDArray[Any], labels: Any) -> NDArray[np.intp]:
    """Return the class numbers of an evaluation set's labels.

    Raises:
        EmphasisValueError: If a label is not among the classes.
    """
    labels = one_column(labels)
    if (unknown := ~np.isin(labels, classes)).any():
        raise EmphasisValueError(f"the evaluation set holds the class {labels[unknown].tolist()[0]!r}, which y lacks")
    numbers: NDArray[np.intp] = np.searchsorted(classes, labels)
    return numbers


def initial_score(y_true: Any, sample_weight: Any = None) -> FloatArray:
    """Return the scores to start from, the log of each class's share, (C,): CCE's best constants.

    A weighting's own best constants would be no better a start: a robust one may well ignore a rare class.

    Args:
        y_true: (N,) labels; the classes are its sorted values.
        sample_weight: (N,) >= 0, or None.

    Raises:
        ValueError: The weights do not fit, or a class has no weight.
    """
    checked_classes(y_true)
    return initial_score_of_totals(*class_totals(y_true, sample_weight))


def initial_score_of_totals(classes: NDArray[Any], totals: FloatArray) -> FloatArray:
    """Return `initial_score` of the total weight of each class.

    Raises:
        EmphasisValueError: If a class has no weight.
    """
    if not totals.all():
        raise EmphasisValueError(
            f"class {classes[totals == 0.0].tolist()[0]!r} has no sample_weight; remove its examples"
        )
    log_share: FloatArray = np.log(totals / totals.sum())
    return log_share


def class_totals(y_true: Any, sample_weight: Any = None) -> tuple[NDArray[Any], FloatArray]:
    """Return the sorted classes of some examples, and the total weight of each class in float64."""
    labels = one_column(y_true)
    classes, numbers = np.unique(labels, return_inverse=True)
    weight = None if sample_weight is None else checked_weight(sample_weight, len(labels))
    if weight is not None:
        weight = weight.astype(np.float32)  # as boosters keep them
    return classes, np.bincount(numbers, weight, len(classes)).astype(np.float64)


def merged_totals(parts: Sequence[tuple[NDArray[Any], FloatArray]]) -> tuple[NDArray[Any], FloatArray]:
    """Return `class_totals` of all examples, given those of each part.

    Raises:
        EmphasisValueError: If there is one class only, or a label is missing.
    """
    classes, numbers = checked_classes(np.concatenate([classes for classes, _ in parts]))
    totals: FloatArray = np.bincount(numbers, np.concatenate([part for _, part in parts]), len(classes)).astype(float)
    return classes, totals


def class_numbers(y_true: Any, raw_prediction: FloatArray) -> NDArray[np.intp]:
    """Return the numbers of the classes of labels that fit to raw predictions, (N,) or (N, C).

    Raises:
        EmphasisValueError: If the shapes do not match, or a label is no number of a class.
    """
    labels = np.asarray(y_true)
    if raw_prediction.ndim not in (1, 2) or (raw_prediction.ndim == 2 and raw_prediction.shape[1] < 2):
        raise EmphasisValueError(f"raw_prediction must be (N,) or (N, C) with C >= 2, got shape {raw_prediction.shape}")
    if labels.shape != raw_prediction.shape[:1]:
        raise EmphasisValueError(
            f"y_true must have shape {raw_prediction.shape[:1]} for raw_prediction of shape {raw_prediction.shape}, "
            f"got {labels.shape}"
        )
    num_classes = raw_prediction.shape[1] if raw_prediction.ndim == 2 else 2
    numbers = labels.astype(np.intp)
    wrong = (numbers != labels) | (numbers < 0) | (numbers >= num_classes)
    if wrong.any():
        raise EmphasisValueError(
            f"y_true holds {labels[wrong].tolist()[0]!r}; class numbers are whole, 0 to {num_classes - 1}"
        )
    return numbers


def checked_weight(sample_weight: Any, examples: int) -> FloatArray:
    """Return sample weights in float64, (N,).

    Raises:
        EmphasisValueError: If there is another number of weights, or one is negative, NaN or infinite.
    """
    weight = np.asarray(sample_weight, dtype=np.float64)
    if weight.shape != (examples,):
        raise EmphasisValueError(f"sample_weight must have shape ({examples},), got {weight.shape}")
    if not (weight >= 0.0).all() or not np.isfinite(weight).all():
        raise EmphasisValueError("sample_weight holds a negative number, NaN or infinity; use finite numbers >= 0")
    return weight
