"""Estimation of the number of remaining wrong labels from random draws, and of when to stop a review.

Every tenth example of a review is drawn at random from all examples, whether suspect or not. These draws are a simple
random sample of the data: the examples are shuffled once, and the draws are the first examples of that sequence. An
example that has already been reviewed counts as drawn without being shown again. The examples are divided into strata
by how suspicious they are now. In each stratum the share of wrong labels among the draws estimates the share among the
unreviewed examples. Neither the answers about the top of the order nor the model's probabilities are used.

The interval adds up the uncertainty of the strata: the share of each has the distribution whose quantiles are the
exact (Clopper-Pearson) limits, from which the number of wrong labels is simulated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SHARE = 10
"""One of this number of examples is drawn at random."""

WORTH = 0.05
"""Share of wrong labels among the next examples below which a review is no longer worthwhile."""

_STRATA = 4
_FEWEST_DRAWS = 15  # in a stratum, if there are enough
_SIMULATIONS = 4000
_NEXT = 50


@dataclass(frozen=True)
class Remaining:
    """An estimate of the number of wrong labels among the unreviewed examples.

    Attributes:
        count: Estimated number.
        low: Lower limit of the interval.
        high: Upper limit of the interval.
        level: Confidence level of the interval.
        draws: Number of random draws that the estimate is based on.
        unreviewed: Number of unreviewed examples.
    """

    count: float
    low: float
    high: float
    level: float
    draws: int
    unreviewed: int


@dataclass(frozen=True)
class Outlook:
    """The expected result of continuing a review, according to the learned probabilities.

    Attributes:
        next_examples: Number of further examples.
        finds: Expected number of wrong labels among them.
        worth_until: Number of further examples until fewer than 1 in 20 are expected to be wrong.
    """

    next_examples: int
    finds: float
    worth_until: int


def random_sequence(n: int, seed: int = 0) -> NDArray[np.int64]:
    """Return the random order in which the n examples are drawn, which is the same for all reviewers of an audit."""
    return np.random.default_rng((n, seed)).permutation(n)


def drawn_examples(sequence: NDArray[np.int64], reviewed: NDArray[np.bool_], draws: Sequence[int]) -> NDArray[np.int64]:
    """Return the first examples of the sequence, as far as all were reviewed and at least the last draw.

    Args:
        sequence: Sequence from `random_sequence`.
        reviewed: (n,) whether each example was reviewed.
        draws: Examples that were shown because they were drawn.
    """
    if not len(draws):
        return sequence[:0]
    position = np.empty(len(sequence), dtype=np.int64)
    position[sequence] = np.arange(len(sequence))
    reached = int(position[np.asarray(draws)].max()) + 1
    open_draws = np.flatnonzero(
        ~reviewed[sequence[:reached]]
    )  # a decision was withdrawn, or another reviewer sees the example
    return sequence[: open_draws[0] if len(open_draws) else reached]


def estimate_remaining(
    suspicion: NDArray[np.float64],
    wrong: Mapping[int, bool],
    drawn: NDArray[np.int64],
    *,
    level: float = 0.95,
    seed: int = 0,
) -> Remaining:
    """Estimate the number of wrong labels among the unreviewed examples.

    Args:
        suspicion: (n,) suspicion of each label; for reviewed examples, it must not be based on their own answer.
        wrong: Whether the label is wrong, by reviewed example.
        drawn: Reviewed random draws, from `drawn_examples`.
        level: Confidence level of the interval.
        seed: Seed of the simulation.
    """
    n = len(suspicion)
    reviewed = np.zeros(n, dtype=bool)
    reviewed[list(wrong)] = True
    unreviewed = np.flatnonzero(~reviewed)
    if not len(unreviewed):
        return Remaining(0.0, 0.0, 0.0, level, len(drawn), 0)
    answers = np.array([wrong[int(index)] for index in drawn], dtype=bool)
    edges = _strata_edges(suspicion, unreviewed, drawn)
    stratum_of_rest = np.searchsorted(edges, suspicion[unreviewed], side="right")
    stratum_of_drawn = np.searchsorted(edges, suspicion[drawn], side="right")
    rng = np.random.default_rng(seed)
    count, lows, highs = 0.0, np.zeros(_SIMULATIONS), np.zeros(_SIMULATIONS)
    for stratum in range(len(edges) + 1):
        size = int((stratum_of_rest == stratum).sum())
        of_stratum = answers[stratum_of_drawn == stratum]
        hits, misses = int(of_stratum.sum()), int((~of_stratum).sum())
        if not size:
            continue
        count += size * (hits / len(of_stratum) if len(of_stratum) else 0.5)
        least = rng.beta(hits, misses + 1, _SIMULATIONS) if hits else np.zeros(_SIMULATIONS)
        most = rng.beta(hits + 1, misses, _SIMULATIONS) if misses else np.ones(_SIMULATIONS)
        lows += rng.binomial(size, least)
        highs += rng.binomial(size, most)
    tail = (1.0 - level) / 2.0
    low, high = float(np.quantile(lows, tail)), float(np.quantile(highs, 1.0 - tail))
    return Remaining(min(max(count, low), high), low, high, level, len(drawn), len(unreviewed))


def _strata_edges(
    suspicion: NDArray[np.float64], unreviewed: NDArray[np.int64], drawn: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the limits between strata, such that each has at least 15 draws comparable with unreviewed examples.

    Draws that are more suspicious than all unreviewed examples are not used. Strata begin with the most suspicious
    examples, where shares of wrong labels vary most, and each stratum is twice as large as the one before.
    """
    comparable = np.sort(suspicion[drawn][suspicion[drawn] <= suspicion[unreviewed].max()])[::-1]
    edges: list[float] = []
    assigned, size = 0, _FEWEST_DRAWS
    while len(edges) < _STRATA - 1 and len(comparable) - assigned - size >= _FEWEST_DRAWS:
        assigned += size
        edges.append(float(comparable[assigned - 1]))
        size *= 2
    top = float(suspicion[unreviewed].max())
    return np.array(sorted({*edges, np.nextafter(top, np.inf)}))


def outlook(probability: NDArray[np.float64], unreviewed: NDArray[np.int64], next_examples: int = _NEXT) -> Outlook:
    """Return the expected result of reviewing the next examples of the learned order.

    Args:
        probability: (n,) calibrated probabilities that labels are wrong.
        unreviewed: Unreviewed examples.
        next_examples: Number of examples to look ahead.
    """
    ahead = np.sort(probability[unreviewed])[::-1]
    worth = int(np.count_nonzero(ahead >= WORTH))
    return Outlook(min(next_examples, len(ahead)), float(ahead[:next_examples].sum()), worth)
