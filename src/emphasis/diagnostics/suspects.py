"""Detection of labels that look wrong, from a network's predictions during training.

For most of its training, a robustly trained network prefers the correct class of an example to a wrong label. The mean
margin of each example's label over training therefore ranks the labels by suspicion. This is the area under the margin
(G. Pleiss et al., NeurIPS 2020), with the margin u = z_y - logsumexp_{j != y} z_j = log(p / (1 - p)), of which the
weighting is a function.

The functions are pure and take numpy arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emphasis.errors import EmphasisValueError
from emphasis.weighting._numerics import log_sigmoid

_COUNTS_AT_ONCE = 2**22  # number of counts (examples times classes) held in memory at a time
_LEAST_P, _LEAST_Q = 2.0**-24, 2.0**-12  # the smallest p and 1 - p that float16 resolves


@dataclass(frozen=True, eq=False)
class Suspects:
    """The result of `find_suspects` for n examples, in the order of the labels.

    Attributes:
        score: (n,) mean margin; the lower, the more suspicious.
        suggested: (n,) int64, class other than the label that was predicted most often; the label itself if there was
            none.
        suspect: (n,) bool, whether the suggested class was predicted more often than the label.
        sample_weight: (n,) in (0, 1), sigmoid(score), which is p at the mean margin.
        order: (n,) int64, indices of the examples from the most to the least suspicious.
    """

    score: NDArray[np.float64]
    suggested: NDArray[np.int64]
    suspect: NDArray[np.bool_]
    sample_weight: NDArray[np.float64]
    order: NDArray[np.int64]

    @property
    def noise_rate(self) -> float:
        """Estimated share of wrong labels, in [0, 1]: the share of suspects."""
        return float(self.suspect.mean())


def find_suspects(
    margins: Sequence[NDArray[Any]],
    predicted: Sequence[NDArray[Any]],
    labels: NDArray[np.integer[Any]],
    num_classes: int,
) -> Suspects:
    """Rank labels by suspicion.

    Args:
        margins: (E, n) margins of the labels at E evaluations during training, without the untrained network; NaN where
            an example was not evaluated. A list of memory-mapped rows is allowed.
        predicted: (E, n) classes of the largest logit; ignored where the margin is NaN.
        labels: (n,) labels in [0, num_classes).
        num_classes: Number of classes C.

    Raises:
        ValueError: The shapes do not match, there are no labels, or an example was never evaluated.
    """
    if len(margins) == 0 or len(margins) != len(predicted):
        raise EmphasisValueError(
            f"need as many rows of predictions as of margins, and one at least: got {len(predicted)} and {len(margins)}"
        )
    n = len(labels)
    if not n:
        raise EmphasisValueError("there are no labels to rank: every example was ignored, or never recorded")
    total, seen = np.zeros(n), np.zeros(n, dtype=np.int64)
    for margin, choice in zip(margins, predicted, strict=True):
        if margin.shape != (n,) or choice.shape != (n,):
            raise EmphasisValueError(f"{n} labels, but rows of {margin.shape} margins and {choice.shape} predictions")
        known = ~np.isnan(margin)
        if np.isinf(margin).any():
            raise EmphasisValueError("a margin is infinite; it must be finite, or NaN where an example was not seen")
        strange = choice[known & ((choice < 0) | (choice >= num_classes))]
        if strange.size:
            raise EmphasisValueError(f"the class {strange[0]} was predicted; classes are in [0, {num_classes})")
        total += np.where(known, margin, 0.0)
        seen += known
    if not seen.all():
        raise EmphasisValueError(
            f"{np.count_nonzero(seen == 0)} of {n} examples were never seen, the first of them "
            f"{int(np.argmin(seen))}; record another epoch, or leave them out"
        )
    score = total / seen
    suggested, outvoted = _votes(margins, predicted, np.asarray(labels), num_classes)
    weight = np.exp(log_sigmoid(score))
    order = np.argsort(score, kind="stable")
    return Suspects(score, suggested, outvoted, weight, order)


def _votes(
    margins: Sequence[NDArray[Any]], predicted: Sequence[NDArray[Any]], labels: NDArray[Any], num_classes: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the class other than the label that was predicted most often, and whether it outvotes the label.

    Where no other class was predicted, the label itself is returned.
    """
    n = len(labels)
    suggested, outvoted = np.empty(n, dtype=np.int64), np.empty(n, dtype=bool)
    size = max(1, _COUNTS_AT_ONCE // num_classes)
    for start in range(0, n, size):
        part = slice(start, min(start + size, n))
        labels_of_part = np.asarray(labels[part], dtype=np.int64)
        rows = np.arange(len(labels_of_part))
        counts = np.zeros((len(labels_of_part), num_classes), dtype=np.int32)
        for margin, choice in zip(margins, predicted, strict=True):
            known = ~np.isnan(margin[part])
            counts[rows[known], np.asarray(choice[part], dtype=np.int64)[known]] += 1
        label_counts = counts[rows, labels_of_part]
        counts[rows, labels_of_part] = 0
        suggested[part] = np.where(counts.any(1), counts.argmax(1), labels_of_part)
        outvoted[part] = counts.max(1) > label_counts
    return suggested, outvoted


def margin_of(p: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Return log(p / (1 - p)), limited to the range that a p stored as float16 resolves: from -16.6 to 8.3."""
    wide = np.asarray(p, dtype=np.float32)
    margin: NDArray[np.float32] = np.log(np.maximum(wide, _LEAST_P)) - np.log(np.maximum(1.0 - wide, _LEAST_Q))
    return margin


def precision_recall(suspect: NDArray[np.bool_], wrong: NDArray[np.bool_]) -> tuple[float, float]:
    """Return precision and recall of the suspects for a mask of wrong labels; NaN where a denominator is 0."""
    hits = np.count_nonzero(suspect & wrong)
    return hits / suspect.sum() if suspect.any() else np.nan, hits / wrong.sum() if wrong.any() else np.nan
