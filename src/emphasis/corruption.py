"""Label noise and imbalance made to order: the labels, which changed, and the transition matrix realized.

numpy only. Labels are (N,) integers in [0, C): lists, numpy arrays or CPU tensors, never modified.
Every function returns a `Corruption`, and the same `seed` gives the same result. Arguments that recur:

- `noise_rate`: r in [0, 1], what is asked for; `Corruption.realized_rate` is what came out.
- `num_classes`: C >= 2; by default the largest label + 1.
- `sampling`: "exact" or "independent", see `from_transition_matrix`.

Wrong types raise TypeError, values outside their domain ValueError; "Raises" names only what is particular.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from emphasis._label_sampling import (
    Floats,
    Ints,
    Rows,
    Sampling,
    by_class,
    checked_labels,
    checked_rows,
    dense,
    flip_probabilities,
    moves,
    sample,
    uniform,
)
from emphasis.deprecation import renamed, warn_renamed
from emphasis.errors import EmphasisTypeError, EmphasisValueError
from emphasis.validation import checked_integer, checked_number
from emphasis.weighting._numerics import Array

_ROW_SUM_TOLERANCE = 1e-8
_SOFTMAX_TOLERANCE = 1e-3  # float16 softmax rows sum to 1 no closer

#: {true: noisy} of `cifar10_asymmetric`: truck -> automobile, bird -> airplane, deer -> horse, cat <-> dog.
CIFAR10_ASYMMETRIC = {9: 1, 2: 0, 4: 7, 3: 5, 5: 3}

#: Superclass (coarse label) of each of the 100 classes (fine labels) of CIFAR-100.
# fmt: off
CIFAR100_SUPERCLASS = (
    4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11, 6, 11, 5, 10, 7,
    6, 13, 15, 3, 15, 0, 11, 1, 10, 12, 14, 16, 9, 11, 5, 5, 19, 8, 8, 15, 13, 14, 17, 18, 10,
    16, 4, 17, 4, 2, 0, 17, 4, 18, 17, 10, 3, 2, 12, 12, 16, 12, 1, 9, 19, 2, 10, 0, 1, 16,
    12, 9, 13, 15, 13, 16, 19, 2, 4, 6, 19, 5, 5, 8, 19, 18, 1, 2, 15, 6, 0, 17, 8, 14, 13,
)
# fmt: on


@dataclass(frozen=True, eq=False, repr=False)
class Corruption:
    """Corrupted labels and what was done to them; N' examples were kept of the N given.

    Attributes:
        labels: (N',) int64, the labels to train on.
        changed: (N',) bool, where `labels` differs from the label given.
        true_labels: (N',) int64, the labels given.
        index: (N',) int64, ascending: the rows of the input that were kept, all of them for label noise.
        num_classes: C.
        requested_rate: The noise_rate asked for; None where there was none.
    """

    labels: Ints
    changed: NDArray[np.bool_]
    true_labels: Ints
    index: Ints
    num_classes: int
    requested_rate: float | None = None

    @property
    def realized_rate(self) -> float:
        """Share of the labels that changed."""
        return float(self.changed.mean()) if self.changed.size else 0.0

    @property
    def realised_rate(self) -> float:
        """Deprecated name of `realized_rate`."""
        warn_renamed("Corruption.realised_rate", "Corruption.realized_rate")
        return self.realized_rate

    def transition_counts(self) -> tuple[Ints, Ints, Ints]:
        """Return the pairs of a true and a noisy class that occur, and how many labels each has: three arrays (k,)."""
        pairs, counts = np.unique(self.true_labels * self.num_classes + self.labels, return_counts=True)
        return pairs // self.num_classes, pairs % self.num_classes, counts.astype(np.int64)

    @cached_property
    def transition_matrix(self) -> Floats:
        """The matrix realized, (C, C) float64, computed when it is first asked for.

        [true, noisy] is the share of class `true` now labeled `noisy`. Rows sum to 1; a class without examples has its
        row of the identity.
        """
        true, noisy, counts = self.transition_counts()
        totals = np.bincount(self.true_labels, minlength=self.num_classes)
        matrix = np.diag((totals == 0).astype(np.float64))
        matrix[true, noisy] = counts / totals[true]
        return matrix

    def __repr__(self) -> str:
        asked = "" if self.requested_rate is None else f", asked for noise_rate {self.requested_rate:g}"
        size = f"{len(self.labels)} labels of {self.num_classes} classes"
        return f"<Corruption: {size}, {self.changed.sum()} changed ({self.realized_rate:.2%}){asked}>"


def symmetric(
    labels: Array,
    noise_rate: float,
    *,
    num_classes: int | None = None,
    inclusive: bool = False,
    sampling: Sampling = "exact",
    seed: int = 0,
) -> Corruption:
    """Change labels with probability r to one of the other classes, all alike: T[c, c] = 1-r, else r/(C-1).

    With `inclusive=True` the new label is any class, the own one too: T = (1-r) I + r/C, and r (C-1)/C of the
    labels change. Both conventions are in use; the paper (section 4.2) uses the first.
    """
    given, classes = checked_labels(labels, num_classes)
    rate = checked_number("symmetric", "noise_rate", noise_rate, 0.0, 1.0)
    other = rate / (classes if inclusive else classes - 1)
    rows = uniform(classes, 1.0 - rate + (other if inclusive else 0.0), other)
    return _sampled(given, classes, rows, rate, sampling, _generator(seed))


def pair_flip(
    labels: Array,
    noise_rate: float,
    *,
    num_classes: int | None = None,
    sampling: Sampling = "exact",
    seed: int = 0,
) -> Corruption:
    """Change labels with probability r to the next class, c + 1 mod C (Han et al., Co-teaching, 2018)."""
    given, classes = checked_labels(labels, num_classes)
    rate = checked_number("pair_flip", "noise_rate", noise_rate, 0.0, 1.0)
    targets = {c: (c + 1) % classes for c in range(classes)}
    return _sampled(given, classes, moves(targets, rate), rate, sampling, _generator(seed))


def cifar10_asymmetric(labels: Array, noise_rate: float, *, sampling: Sampling = "exact", seed: int = 0) -> Corruption:
    """Change CIFAR-10 labels with probability r to a look-alike, `CIFAR10_ASYMMETRIC` (Patrini et al., 2017).

    Five of the ten classes never change, so on balanced data the realized rate is r/2.
    """
    given, classes = checked_labels(labels, 10)
    rate = checked_number("cifar10_asymmetric", "noise_rate", noise_rate, 0.0, 1.0)
    return _sampled(given, classes, moves(CIFAR10_ASYMMETRIC, rate), rate, sampling, _generator(seed))


def superclass_swap(
    labels: Array,
    noise_rate: float,
    *,
    superclass: Array = CIFAR100_SUPERCLASS,
    sampling: Sampling = "exact",
    seed: int = 0,
) -> Corruption:
    """In every superclass flip two classes, drawn at random, to each other with probability r.

    The paper's asymmetric noise of CIFAR-100 (section 4.2, after Wang et al., 2019). Two of five classes take
    part, so on balanced CIFAR-100 the realized rate is 0.4 r. `superclass` (C,) names the superclass of each
    class; `seed` also fixes which classes are swapped.

    Raises:
        ValueError: If a superclass has a single class.
    """
    groups = np.asarray(superclass)
    if groups.ndim != 1:
        raise EmphasisValueError(f"superclass has shape {groups.shape}: it must be (C,), one entry per class")
    given, classes = checked_labels(labels, groups.size)
    rate = checked_number("superclass_swap", "noise_rate", noise_rate, 0.0, 1.0)
    rng = _generator(seed)
    targets: dict[int, int] = {}
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        if members.size < 2:
            raise EmphasisValueError(f"superclass {group} has one class, {members[0]}; it needs two: merge it")
        first, second = (int(c) for c in rng.choice(members, 2, replace=False))
        targets |= {first: second, second: first}
    return _sampled(given, classes, moves(targets, rate), rate, sampling, rng)


def from_transition_matrix(
    labels: Array, transition_matrix: Array, *, sampling: Sampling = "exact", seed: int = 0
) -> Corruption:
    """Draw noisy labels from any class-conditional noise, P(noisy | true) = transition_matrix[true, noisy].

    Every single label has the probabilities of its row. With "exact" (systematic) sampling the number of
    labels that a class with n examples sends to each target differs from n T[true, noisy] by less than 1, and
    so does the number of all changed labels from its expectation.
    With "independent" each label is drawn on its own, as in most published code, and the rate scatters.

    Raises:
        ValueError: If the matrix is not (C, C), or has entries < 0, or rows off 1 by more than 1e-8.
    """
    matrix = np.asarray(transition_matrix, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise EmphasisValueError(f"transition_matrix has shape {matrix.shape}: it must be square, [true, noisy]")
    matrix = checked_rows("transition_matrix", matrix, _ROW_SUM_TOLERANCE)
    given, classes = checked_labels(labels, len(matrix))
    return _sampled(given, classes, dense(matrix), None, sampling, _generator(seed))


def instance_dependent(
    labels: Array,
    noise_rate: float,
    *,
    probabilities: Array | None = None,
    difficulty: Array | None = None,
    num_classes: int | None = None,
    seed: int = 0,
) -> Corruption:
    """Change labels where the example is hard: P(flip) = min(1, s difficulty), s such that its mean is r.

    The flips are drawn by systematic sampling in random order: their number is within 1 of N r. It follows
    the idea of instance- and part-dependent noise (Xia et al., 2020), that flips depend on content; it is not
    their procedure. Give one of:

    - `probabilities`: (N, C), some model's, rows summing to 1 within 1e-3. Then difficulty = 1 - p_y, and the
      new label is drawn from the model's probabilities of the other classes.
    - `difficulty`: (N,), finite and >= 0 on any scale. Then the new label is any other class, all alike.

    Raises:
        ValueError: If r exceeds the share of examples with difficulty > 0.
    """
    if (probabilities is None) == (difficulty is None):
        raise EmphasisTypeError("instance_dependent needs either probabilities=(N, C) or difficulty=(N,)")
    modeled = probabilities is not None
    name, source = ("probabilities", probabilities) if modeled else ("difficulty", difficulty)
    values = np.array(source, dtype=np.float64)
    if num_classes is None and modeled and values.ndim == 2:
        num_classes = values.shape[1]
    given, classes = checked_labels(labels, num_classes)
    shape = (given.size, classes) if modeled else given.shape
    if values.shape != shape:
        raise EmphasisValueError(f"{name} has shape {values.shape}, but these labels need {shape}")
    rate = checked_number("instance_dependent", "noise_rate", noise_rate, 0.0, 1.0)
    rng = _generator(seed)

    if modeled:
        values = checked_rows(name, values, _SOFTMAX_TOLERANCE)
        values[np.arange(given.size), given] = 0.0
    elif (bad := ~((values >= 0.0) & (values < np.inf))).any():
        raise EmphasisValueError(f"difficulty holds {values[bad][0]:g}: it must be finite and >= 0, as 1 - p_y is")
    hardness = values.sum(axis=1) if modeled else values  # 1 - p_y, without cancellation
    order = rng.permutation(given.size)
    edges = np.cumsum(flip_probabilities(hardness, rate)[order]) + rng.random()
    flipped = np.sort(order[np.diff(np.floor(edges), prepend=0.0) > 0.0])

    noisy = given.copy()
    if modeled:
        cumulative = np.cumsum(values[flipped], axis=1)
        points = rng.random(flipped.size) * cumulative[:, -1]
        noisy[flipped] = (cumulative <= points[:, None]).sum(axis=1)
    else:
        noisy[flipped] = (given[flipped] + rng.integers(1, classes, flipped.size)) % classes
    return _described(given, noisy, classes, rate)


def from_noisy_labels(labels: Array, noisy_labels: Array, *, num_classes: int | None = None) -> Corruption:
    """Describe labels that somebody else corrupted, such as people's (CIFAR-10N); `labels` are the true ones.

    Raises:
        ValueError: They do not fit each other.
    """
    given, classes = checked_labels(labels, num_classes)
    noisy, _ = checked_labels(noisy_labels, classes)
    if noisy.shape != given.shape:
        raise EmphasisValueError(f"noisy_labels are of shape {noisy.shape}, labels of {given.shape}; give one for each")
    return _described(given, noisy, classes, None)


def pn_ratio(labels: Array, ratio: float, *, positive: int = 1, seed: int = 0) -> Corruption:
    """Keep every positive and round(n_positive / ratio) negatives drawn at random: P : N = ratio : 1.

    The paper's sample imbalance (section 4.4.2): of 12,500 positives and as many negatives, 1,250 negatives
    stay at 10:1 and 250 at 50:1. The labels returned are binary: 1 for `positive`, 0 for all else.

    Raises:
        ValueError: If there are no positives, or too few negatives, or none would be kept.
    """
    given, _ = checked_labels(labels, None, least=1)
    ratio = checked_number("pn_ratio", "ratio", ratio, 0.0)
    is_positive = given == positive
    positives, negatives = np.flatnonzero(is_positive), np.flatnonzero(~is_positive)
    if not positives.size or not negatives.size:
        raise EmphasisValueError(f"labels must hold positive={positive!r} and others; they hold {np.unique(given)[:9]}")
    # More than there are is an error however many more; the bound keeps n / ratio finite.
    wanted = round(min(positives.size / ratio, given.size)) if ratio else given.size
    if not 1 <= wanted <= negatives.size:
        lowest = positives.size / negatives.size
        raise EmphasisValueError(
            f"ratio={ratio:g}: {positives.size} positives and {negatives.size} negatives allow "
            f"{lowest:g} to {positives.size}"
        )
    rng = _generator(seed)
    index = np.sort(np.concatenate((positives, rng.choice(negatives, wanted, replace=False))))
    binary = is_positive[index].astype(np.int64)
    return _described(binary, binary.copy(), 2, None, index)


def long_tail(labels: Array, imbalance_factor: float, *, num_classes: int | None = None, seed: int = 0) -> Corruption:
    """Keep n_c = n_max factor^(-c/(C-1)) examples of class c, rounded, at least 1 (Cui et al., 2019).

    n_max is the most for which every class has enough, min_c count_c factor^(c/(C-1)): on balanced data the
    size of a class, and elsewhere the profile is still the one asked for.

    Raises:
        ValueError: If a class has no example, or `imbalance_factor` (first class : last class) is below 1.
    """
    given, classes = checked_labels(labels, num_classes)
    factor = checked_number("long_tail", "imbalance_factor", imbalance_factor, 1.0)
    counts = np.bincount(given, minlength=classes)
    if not counts.all():
        raise EmphasisValueError(f"class {counts.argmin()} of {classes} has no example: renumber without gaps")
    log_profile = -np.log(factor) * np.arange(classes) / (classes - 1)
    log_most = np.min(np.log(counts) - log_profile)
    sizes = np.clip(np.rint(np.exp(log_most + log_profile)), 1, counts).astype(np.int64)
    rng = _generator(seed)
    members = zip(by_class(given, classes), sizes, strict=True)
    index = np.sort(np.concatenate([rng.choice(rows, size, replace=False) for rows, size in members]))
    return _described(given[index], given[index], classes, None, index)


def _sampled(
    given: Ints, classes: int, rows: Rows, rate: float | None, sampling: str, rng: np.random.Generator
) -> Corruption:
    return _described(given, sample(given, classes, rows, sampling, rng), classes, rate)


def _described(given: Ints, noisy: Ints, classes: int, rate: float | None, index: Ints | None = None) -> Corruption:
    return Corruption(
        noisy, noisy != given, given, np.arange(given.size) if index is None else index, classes, requested_rate=rate
    )


def _generator(seed: int) -> np.random.Generator:
    return np.random.default_rng(checked_integer("seed", seed, 0))


__getattr__ = renamed(__name__, {"given_labels": "from_noisy_labels"})
