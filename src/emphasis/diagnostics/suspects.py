"""Which labels look wrong, from what a network made of them while it learned.

A network that holds out against wrong labels prefers, for most of its training, the right class of an example to a
wrong label. So the mean margin of an example's label over training ranks the labels: the area under the margin
(G. Pleiss et al., NeurIPS 2020), of a robustly trained network, and with the margin that the weighting is a function
of, u = z_y - logsumexp_{j != y} z_j = log(p / (1 - p)).

Pure functions of numpy arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emphasis.errors import EmphasisValueError
from emphasis.weighting._numerics import log_sigmoid

_COUNTS_AT_ONCE = 2**22  # of predictions, class by class
_LEAST_P, _LEAST_Q = 2.0**-24, 2.0**-12  # what float16 resolves of p and of 1 - p


@dataclass(frozen=True, eq=False)
class Suspects:
    """n examples, in the order of their labels.

    Attributes:
        score: (n,) the mean margin; the lower, the more suspicious.
        suggested: (n,) int64, the other class that was predicted most often; the given one if none ever was.
        suspect: (n,) bool, labels that were outvoted: the suggested class was predicted more often than the label.
        sample_weight: (n,) in (0, 1), sigmoid(score): the p of the mean margin.
        order: (n,) int64, examples from the most to the least suspicious.
    """

    score: NDArray[np.float64]
    suggested: NDArray[np.int64]
    suspect: NDArray[np.bool_]
    sample_weight: NDArray[np.float64]
    order: NDArray[np.int64]

    @property
    def noise_rate(self) -> float:
        """The estimated share of wrong labels: that of the suspects, in [0, 1]."""
        return float(self.suspect.mean())


def find_suspects(
    margins: Sequence[NDArray[Any]],
    predicted: Sequence[NDArray[Any]],
    labels: NDArray[np.integer[Any]],
    num_classes: int,
) -> Suspects:
    """Rank labels by suspicion.

    Args:
        margins: (E, n), the margin of each label at E looks during training, not counting the untrained network; NaN
            where an example was not seen. A list of memory-mapped rows will do.
        predicted: (E, n), the class of the largest logit; any number where the margin is NaN.
        labels: (n,) in [0, num_classes).
        num_classes: C.

    Raises:
        ValueError: Arrays do not fit together, there are no labels, or an example was never seen.
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
    """Return the class other than the label that is predicted most often, and whether it is more often than the label.

    The label where there is none.
    """
    n = len(labels)
    found, outvoted = np.empty(n, dtype=np.int64), np.empty(n, dtype=bool)
    size = max(1, _COUNTS_AT_ONCE // num_classes)
    for start in range(0, n, size):
        part = slice(start, min(start + size, n))
        given = np.asarray(labels[part], dtype=np.int64)
        rows = np.arange(len(given))
        counts = np.zeros((len(given), num_classes), dtype=np.int32)
        for margin, choice in zip(margins, predicted, strict=True):
            known = ~np.isnan(margin[part])
            counts[rows[known], np.asarray(choice[part], dtype=np.int64)[known]] += 1
        own = counts[rows, given]
        counts[rows, given] = 0
        found[part] = np.where(counts.any(1), counts.argmax(1), given)
        outvoted[part] = counts.max(1) > own
    return found, outvoted


def margin_of(p: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Return log(p / (1 - p)) as far as p is known, being float16: between -16.6 and 8.3."""
    wide = np.asarray(p, dtype=np.float32)
    margin: NDArray[np.float32] = np.log(np.maximum(wide, _LEAST_P)) - np.log(np.maximum(1.0 - wide, _LEAST_Q))
    return margin


def precision_recall(suspect: NDArray[np.bool_], wrong: NDArray[np.bool_]) -> tuple[float, float]:
    """Return precision and recall of the suspects, given which labels are truly wrong; NaN of nothing."""
    hits = np.count_nonzero(suspect & wrong)
    return hits / suspect.sum() if suspect.any() else np.nan, hits / wrong.sum() if wrong.any() else np.nan
